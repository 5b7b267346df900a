"""The server in docs/python.md answers many at once, each with its own translations, in few batches."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from .small_translators import SENTENCES, write_translator

PAGE = Path(__file__).parents[3] / "docs" / "python.md"
MODEL = '"build/demo/run/resmlp_tiny"'
REQUESTS = [SENTENCES[i : i + 1 + i % 3] for i in range(40)] + [["", "a\0b", " ".join(SENTENCES[:9])], []]


def test_concurrent_requests_are_answered_in_batches(tmp_path):
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn comes with the extra [dev]")
    (block,) = re.findall(r"^```python\n([^`]*FastAPI.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert MODEL in block
    served = {}
    exec(block.replace(MODEL, repr(str(write_translator(tmp_path / "translator")))), served)
    translator, batches = served["translator"], []
    translate = translator.translate

    def counted(texts):
        if "fail" in texts:
            raise MemoryError
        batches.append(len(texts))
        time.sleep(0.1)  # as a larger model takes
        return translate(texts)

    translator.translate = counted
    server = uvicorn.Server(uvicorn.Config(served["app"], port=0, log_level="critical"))
    running = threading.Thread(target=server.run)
    running.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        def ask(texts):
            headers = {"Content-Type": "application/json"}
            request = Request(f"http://127.0.0.1:{port}/translate", json.dumps(texts).encode(), headers)
            return json.load(urlopen(request, timeout=30))

        with pytest.raises(HTTPError, match="500"):
            ask(["fail"])  # which does not end the server
        with ThreadPoolExecutor(len(REQUESTS)) as clients:
            answers = list(clients.map(ask, REQUESTS))
    finally:
        server.should_exit = True
        running.join()
    assert answers == [translate(texts) for texts in REQUESTS]
    assert sum(batches) == sum(map(len, REQUESTS))
    assert len(batches) < len(REQUESTS) / 2
