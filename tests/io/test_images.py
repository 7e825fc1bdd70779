"""Sizes of photos in the authors' training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.io.images import training_size


def theirs(width, height, in_a_list):
    """Upstream's rule, stated once more: a photo with a side above the limit gets its shorter side at the limit."""
    limit = 512 if in_a_list else 1024
    if width <= limit and height <= limit:
        return width, height
    if width < height:
        return limit, int(height * (limit / width))
    return int(width * (limit / height)), limit


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 6))
def test_it_is_the_authors_rule(width, height, photos):
    assert training_size((width, height), photos) == theirs(width, height, photos > 1)


@pytest.mark.parametrize(
    ("size", "photos", "want"),
    [
        ((512, 512), 2, (512, 512)),
        ((513, 512), 2, (513, 512)),
        ((4000, 3000), 5, (682, 512)),
        ((4000, 3000), 1, (1365, 1024)),
        ((1024, 300), 1, (1024, 300)),
        ((1025, 300), 1, (3498, 1024)),  # enlarged
        ((200, 513), 3, (512, 1313)),  # enlarged
    ],
)
def test_by_hand(size, photos, want):
    assert training_size(size, photos) == want
