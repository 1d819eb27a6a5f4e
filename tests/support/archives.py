"""WARC and WET files made by hand, without the library that reads them."""

import gzip

CRLF = b"\r\n"


def record(kind, payload, content_type="text/plain", uri="http://example.org/", version=b"WARC/1.0", **fields):
    """A record with its two line ends; `fields` replace or add header fields."""
    headers = {
        "WARC-Type": kind,
        "WARC-Target-URI": uri,
        "WARC-Date": "2024-05-01T12:00:00Z",
        "WARC-Record-ID": "<urn:uuid:00000000-0000-0000-0000-000000000001>",
        "Content-Type": content_type,
        "Content-Length": len(payload),
    } | {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{name}: {value}".encode() for name, value in headers.items() if value is not None]
    return CRLF.join([version, *lines, b"", payload, b"", b""])


def response(body, content_type="text/plain", status="200 OK", **fields):
    """A record of an HTTP response; `fields` are header fields of HTTP."""
    headers = {"Content-Type": content_type} | {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{name}: {value}".encode() for name, value in headers.items() if value is not None]
    payload = CRLF.join([f"HTTP/1.1 {status}".encode(), *lines, b"", body])
    return record("response", payload, "application/http; msgtype=response")


def chunked(*parts):
    """A body in chunked transfer encoding."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def compressed(records):
    """A member of gzip per record, as the standard recommends."""
    return b"".join(map(gzip.compress, records))


WARCINFO = record("warcinfo", b"software: by hand\r\n", "application/warc-fields")


def wet(texts):
    """The records of a WET file as Common Crawl writes them: the text of a web page each."""
    pages = [record("conversion", text.encode(), uri=f"http://example.org/{n}") for n, text in enumerate(texts)]
    return [WARCINFO, *pages]
