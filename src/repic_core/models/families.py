"""The model families that this kit supports, by the ``model_type`` of their configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One family of models.

    Args:
        name: what people call it.
        frame: the frame in which its models state boxes (`models.boxes`): ``resized`` pixels or ``thousandths``.
        shared_prefix: whether tests show that the packed pass of a group equals the stock one (`tests/training`).
    """

    name: str
    frame: str
    shared_prefix: bool = True


FAMILIES = {
    "qwen2_vl": Family("Qwen2-VL", frame="thousandths"),
    "qwen2_5_vl": Family("Qwen2.5-VL", frame="resized"),
    "qwen3_vl": Family("Qwen3-VL", frame="thousandths"),
}
