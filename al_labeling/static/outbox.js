// Answers on their way to the server. They are kept in the browser until the server has acknowledged them, and carry
// their own names, so that sending one again after a lost response changes nothing.

const PREFIX = "al-outbox-";
const SLOWEST = 10_000; // milliseconds between two attempts

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

export class Outbox {
  // send(round, answers) -> {kept, refused, progress}; told(waiting, reply) after every attempt
  constructor(tab, name, send, told) {
    this.key = PREFIX + tab;
    this.name = name;
    this.send = send;
    this.told = told;
    this.waiting = this.adopt();
    this.sending = null;
    this.pause = 250;
    this.keep();
  }

  // What a page before this one could not send any more; other people's answers are left to them.
  adopt() {
    const found = [];
    for (const key of Object.keys(localStorage).filter((key) => key.startsWith(PREFIX))) {
      let kept = [];
      try {
        kept = JSON.parse(localStorage.getItem(key));
      } catch {
        localStorage.removeItem(key);
      }
      const mine = kept.filter((one) => one.name === this.name);
      if (!mine.length) continue;
      found.push(...mine);
      const others = kept.filter((one) => one.name !== this.name);
      if (others.length) localStorage.setItem(key, JSON.stringify(others));
      else localStorage.removeItem(key);
    }
    return found;
  }

  keep() {
    if (this.waiting.length) localStorage.setItem(this.key, JSON.stringify(this.waiting));
    else localStorage.removeItem(this.key);
  }

  pictures(round) {
    return this.waiting.filter((one) => one.round === round).map((one) => one.answer.picture);
  }

  push(round, answers) {
    this.waiting.push(...answers.map((answer) => ({ name: this.name, round, answer })));
    this.keep();
    this.flush();
  }

  // Resolves when everything was acknowledged.
  flush() {
    this.sending ??= this.work().finally(() => { this.sending = null; });
    return this.sending;
  }

  async work() {
    while (this.waiting.length) {
      const round = this.waiting[0].round;
      const end = this.waiting.findIndex((one) => one.round !== round);
      const batch = this.waiting.slice(0, Math.min(end < 0 ? Infinity : end, 200));
      let reply = null;
      try {
        reply = await this.send(round, batch.map((one) => one.answer));
      } catch (error) {
        this.told(this.waiting.length, { error });
        await new Promise((resolve) => setTimeout(resolve, this.pause));
        this.pause = Math.min(2 * this.pause, SLOWEST);
        continue;
      }
      this.pause = 250;
      this.waiting.splice(0, batch.length);
      this.keep();
      this.told(this.waiting.length, reply);
    }
  }
}
