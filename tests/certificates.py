"""Any certificate that a run may write, for properties of what keeps one."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from lens_recipes.arrays.certificate import Certificate

ERRORS = st.floats(min_value=0) | st.just(math.nan)
SCALES = st.floats(min_value=0, allow_infinity=False) | st.just(math.nan)
SHARES = st.floats(min_value=0, max_value=1) | st.just(math.nan)
CERTIFICATES = st.builds(
    Certificate, ERRORS, SCALES, ERRORS, SHARES, st.integers(0, 99), st.just("float32")
)
