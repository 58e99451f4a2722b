"""The browser and the result of the report's own tests."""

from test_report import browser, opened, result  # noqa: F401
