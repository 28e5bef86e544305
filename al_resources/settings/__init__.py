"""The one typed settings object: its sections, and where their values come from."""

from al_resources.settings.sections import (
    AlertSettings,
    DagsterSettings,
    DeploymentSettings,
    GateSettings,
    HoldoutSettings,
    LabelingSettings,
    ModelSettings,
    MonitoringSettings,
    SelectionSettings,
    SensorSettings,
    ServingSettings,
)
from al_resources.settings.settings import (
    CONFIG_VARIABLE,
    Settings,
    SettingsError,
    config_file,
    load_settings,
    setting_keys,
    setting_sources,
)

__all__ = [
    "CONFIG_VARIABLE",
    "AlertSettings",
    "DagsterSettings",
    "DeploymentSettings",
    "GateSettings",
    "HoldoutSettings",
    "LabelingSettings",
    "ModelSettings",
    "MonitoringSettings",
    "SelectionSettings",
    "SensorSettings",
    "ServingSettings",
    "Settings",
    "SettingsError",
    "config_file",
    "load_settings",
    "setting_keys",
    "setting_sources",
]
