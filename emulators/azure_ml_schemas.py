"""The published schemas of Azure ML's REST API, by api-version: what the emulated workspace takes, and what it refuses.

Microsoft generates a Python model per type and api-version from the specification (azure-rest-api-specs,
specification/machinelearningservices). Older releases of azure-ai-ml carry all of them; the client under test
serializes with one model for all api-versions. The old wheel's models are fetched when they are first needed and read
as JSON schemas: which properties there are, which are required or read-only, their types, enumerations and patterns.
Whatever a schema does not name is refused, and so is what is read-only.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
from filelock import FileLock

from emulators.node_packages import INSTALL_SECONDS, run_installer

HERE = Path(__file__).parent
RELEASE = "azure-ai-ml==1.30.0"  # it has a model per api-version
MODELS, PACKAGE = HERE / ".rest-models", "azure_ml_rest"

# kind of resource -> its type; in 2022-02-01-preview with "Data" behind it
TYPES = {
    "models/versions": "ModelVersion",
    "environments/versions": "EnvironmentVersion",
    "data/versions": "DataVersionBase",
    "codes/versions": "CodeVersion",
    "onlineEndpoints": "OnlineEndpoint",
    "onlineEndpoints/deployments": "OnlineDeployment",
    "batchEndpoints": "BatchEndpoint",
    "batchEndpoints/deployments": "BatchDeployment",
    "jobs": "JobBase",
    # what is sent to be done
    "getLogs": "DeploymentLogsRequest",
    "startPendingUpload": "PendingUploadRequestDto",
    "batch job": "BatchJobResource",
}
SCALARS: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "long": {"type": "integer"},
    "float": {"type": "number"},
    "object": {},
    "bytearray": {"type": "string"},
    "unix-time": {"type": "integer"},
    "iso-8601": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d"},
    "duration": {"type": "string", "pattern": r"^P(?=.)(\d+[YMWD])*(T(?=.)(\d+(\.\d+)?[HMS])+)?$"},
}
# what the descriptions demand in words: "ARM resource ID of ...", "URI of ..."
ARM_ID, URI = r"^(azureml:)?/subscriptions/.+", r"^(azureml|https)://.+"
WORDED = {
    "codeId": ARM_ID,
    "componentId": ARM_ID,
    "computeId": ARM_ID,
    "environmentId": ARM_ID,
    "codeUri": "^https://.+",
    "dataUri": URI,
    "modelUri": URI,
    "uri": f"{ARM_ID}|{URI}",
}
TAKEN_ALL_THE_SAME = {("codes/versions", "properties/properties/hash_version")}  # the SDK's: a number for a text
CONSTRAINTS = {
    "pattern": "pattern",
    "min_length": "minLength",
    "max_length": "maxLength",
    "minimum": "minimum",
    "maximum": "maximum",
    "minimum_ex": "exclusiveMinimum",
    "maximum_ex": "exclusiveMaximum",
    "min_items": "minItems",
    "max_items": "maxItems",
}


def problems_of(kind: str, api_version: str, body: Any) -> list[str]:
    """What Azure's interface would refuse in a body, each with its place; empty where it is sound."""
    validator = _validator(kind, api_version)
    if validator is None:
        return [f"api-version {api_version!r} has no {kind} among the models of {RELEASE}"]
    found = [("/".join(map(str, error.path)), error.message) for error in validator.iter_errors(without_nulls(body))]
    return [f"{path or 'body'}: {message}" for path, message in found if (kind, path) not in TAKEN_ALL_THE_SAME]


@cache
def _validator(kind: str, api_version: str) -> jsonschema.protocols.Validator | None:
    models = models_of(api_version)
    names = (TYPES[kind], f"{TYPES[kind]}Data")
    found = next((name for name in names if hasattr(models, name)), None)
    if found is None:
        return None
    schema = Schema(models)
    return jsonschema.Draft202012Validator({**schema.reference(found), "$defs": schema.definitions})


class Schema:
    """One type of an api-version and all it is made of, as a JSON schema."""

    def __init__(self, models: Any) -> None:
        self._models = models
        self.definitions: dict[str, Any] = {}

    def reference(self, name: str) -> dict[str, Any]:
        if name not in self.definitions:
            self.definitions[name] = {}  # types may hold themselves
            self.definitions[name] = self._definition(getattr(self._models, name))
        return {"$ref": f"#/$defs/{name}"}

    def _definition(self, model: Any) -> dict[str, Any]:
        subtypes = vars(model).get("_subtype_map")
        if not subtypes:
            return self._record(model)
        ((discriminator, kinds),) = subtypes.items()
        name = model._attribute_map[discriminator]["key"]
        choices = [
            {"if": {"properties": {name: {"const": kind}}, "required": [name]}, "then": self.reference(subtype)}
            for kind, subtype in kinds.items()
        ]
        return {"type": "object", "required": [name], "properties": {name: {"enum": list(kinds)}}, "allOf": choices}

    def _record(self, model: Any) -> dict[str, Any]:
        rules = model._validation
        written = {name: at for name, at in model._attribute_map.items() if not rules.get(name, {}).get("readonly")}
        return {
            "type": "object",
            "properties": {at["key"]: self._property(model, name, at) for name, at in written.items()},
            "required": [at["key"] for name, at in written.items() if rules.get(name, {}).get("required")],
            "additionalProperties": False,
        }

    def _property(self, model: Any, name: str, at: dict[str, str]) -> dict[str, Any]:
        rules = model._validation.get(name, {})
        limits = {CONSTRAINTS[rule]: value for rule, value in rules.items() if rule in CONSTRAINTS}
        parts: list[dict[str, Any]] = [self._type(at["type"]), limits, self._enumeration(model, name)]
        if at["type"] == "str" and (worded := WORDED.get(at["key"])):
            parts.append({"pattern": worded})
        return {"allOf": [part for part in parts if part]}

    def _type(self, name: str) -> dict[str, Any]:
        if name.startswith("["):
            return {"type": "array", "items": self._type(name[1:-1])}
        if name.startswith("{"):
            return {"type": "object", "additionalProperties": self._type(name[1:-1])}
        return SCALARS[name] if name in SCALARS else self.reference(name)

    def _enumeration(self, model: Any, name: str) -> dict[str, Any]:
        """The generated code names an enumeration in its documentation alone. Azure takes any case."""
        found = re.search(rf":vartype {name}: str\s+or\s+~[\w.]+\.models\.(\w+)", model.__doc__)
        if found is None:
            return {}
        values = "|".join(re.escape(member.value) for member in getattr(self._models, found[1]))
        return {"pattern": f"^(?i:{values})$"}


def fetch() -> None:
    """Bring the models here, once per checkout. Raises `NotInstalled`."""
    ready = MODELS / ".ready"  # written last
    with FileLock(HERE / ".node_modules.lock", timeout=INSTALL_SECONDS):
        if ready.is_file() and ready.read_text() == RELEASE:
            return
        with tempfile.TemporaryDirectory() as folder:
            options = ["--quiet", "--no-deps", "--dest", folder]
            run_installer(f"{RELEASE}, for its schemas,", sys.executable, "-m", "pip", "download", *options, RELEASE)
            (wheel,) = Path(folder).iterdir()
            _unpack(wheel)
        ready.write_text(RELEASE)


def _unpack(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if found := re.fullmatch(r"azure/ai/ml/_restclient/(v20\w+/(models/\w+|_serialization)\.py)", name):
                target = MODELS / PACKAGE / found[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


@cache
def models_of(api_version: str) -> ModuleType | None:
    """The generated models of an api-version, None where there are none."""
    fetch()
    name = "v" + api_version.replace("-", "_")
    if not (MODELS / PACKAGE / name).is_dir():
        return None
    if str(MODELS) not in sys.path:
        sys.path.append(str(MODELS))
    return importlib.import_module(f"{PACKAGE}.{name}.models")


def without_nulls(value: Any) -> Any:
    """An absent property and a null are the same to Azure."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value
