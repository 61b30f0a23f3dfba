"""What a box says of itself to Home Assistant, before Home Assistant's own schemas.

discovery.json is what the agent sends, which a test of the agent sees to. It takes the packages that home-assistant.txt names: those of
Home Assistant 2024.12, the last that runs with Python 3.12, as far as its MQTT integration needs them.
"""

import json
import logging
import sys
from pathlib import Path

from homeassistant.components.mqtt import binary_sensor, discovery, sensor

# That it is not Home Assistant which calls.
logging.disable(logging.WARNING)
SCHEMAS = {"sensor": sensor.DISCOVERY_SCHEMA, "binary_sensor": binary_sensor.DISCOVERY_SCHEMA}


def main():
    text = (Path(__file__).parent / "discovery.json").read_text()
    # What Home Assistant does with a message on homeassistant/device/ID/config. An empty device is one that it refused.
    device = discovery._parse_device_payload(None, text, "id", None)
    if not device:
        sys.exit("Home Assistant refuses the device")
    components = device["components"]
    for name, config in components.items():
        entity = discovery.MQTTDiscoveryPayload(config)
        schema = SCHEMAS[entity.pop("platform")]
        entity["device"], entity["origin"] = device["device"], device["origin"]
        discovery._merge_common_device_options(entity, device)
        checked = schema(entity)
        assert checked["availability_topic"] == device["availability_topic"], name
    # A schema that takes everything would say nothing.
    for wrong in ({"state_topic": "a/#/b"}, {"device_class": "no such class"}, {"value_template": "{{ wrong"}):
        try:
            SCHEMAS["binary_sensor"]({"state_topic": "a", **wrong})
        except Exception:
            continue
        sys.exit(f"Home Assistant takes {wrong}")
    print(f"Home Assistant takes the device and its {len(components)} entities: {', '.join(components)}")


main()
