"""A reader of query-qmp-schema's answer, which knows nothing of how it was made."""

from __future__ import annotations

from typing import Any

PYTHON = {"string": str, "int": int, "boolean": bool}


class Schema:
    """What a server says of itself."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self.entries = {entry["name"]: entry for entry in entries}
        assert len(self.entries) == len(entries), "two entries have one name"

    def names(self, meta_type: str) -> set[str]:
        return {name for name, entry in self.entries.items() if entry["meta-type"] == meta_type}

    def check_result(self, command: str, value: Any) -> None:
        """Fail unless `command` may return `value`."""
        assert self.entries[command]["meta-type"] == "command"
        self.check(self.entries[command]["ret-type"], value, command)

    def check_event(self, event: dict[str, Any]) -> None:
        """Fail unless the event is there, with such data."""
        entry = self.entries[event["event"]]
        assert entry["meta-type"] == "event"
        self.check(entry["arg-type"], event.get("data", {}), event["event"])

    def check(self, kind: str, value: Any, where: str) -> None:
        entry = self.entries[kind]
        match entry["meta-type"]:
            case "builtin" if entry["json-type"] != "value":
                assert type(value) is PYTHON[entry["json-type"]], where
            case "enum":
                assert value in [member["name"] for member in entry["members"]], where
            case "array":
                assert isinstance(value, list), where
                for at, element in enumerate(value):
                    self.check(entry["element-type"], element, f"{where}[{at}]")
            case "object":
                self._check_object(entry, value, where)

    def _check_object(self, entry: dict[str, Any], value: Any, where: str) -> None:
        assert isinstance(value, dict), where
        members = {member["name"]: member for member in entry["members"]}
        if "tag" in entry:
            cases = {variant["case"]: variant["type"] for variant in entry["variants"]}
            variant = self.entries[cases[value[entry["tag"]]]]
            members |= {member["name"]: member for member in variant["members"]}
        assert value.keys() <= members.keys(), where
        for name, member in members.items():
            if name in value:
                self.check(member["type"], value[name], f"{where}.{name}")
            else:
                assert "default" in member, f"{where}.{name}"
