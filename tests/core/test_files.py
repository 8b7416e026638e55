"""Files that another thread writes while they are read."""

from nas_proxy.core.files import whole_lines


def test_a_line_in_the_making_ends_what_is_read(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")

    def growing():
        with path.open("rb") as file:
            for line in file:
                if line == b"tw":  # its end is written just now, and another line
                    with path.open("ab") as more:
                        more.write(b"o\nthree\n")
                yield line

    assert list(whole_lines(growing())) == [b"one\n"]
    with path.open("rb") as file:
        assert list(whole_lines(file)) == [b"one\n", b"two\n", b"three\n"]
