"""What tests of the command share."""


def assert_one_line_error(result, beginning):
    status, output, error = result
    assert (status, output) == (2, "")
    assert error.startswith(beginning) and error.endswith("\n") and error.count("\n") == 1, error
