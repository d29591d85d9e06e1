"""FastAPI with raw bytes in and out, the model called where the request is: ``uvicorn`` on one core's worth of Python.

python fastapi_server.py PORT SCORER
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI, Request, Response
from scorer import PlainScorer

scorer = PlainScorer(sys.argv[2])
app = FastAPI()


@app.post("/log_prob")
async def log_prob(request: Request) -> Response:
    return Response(scorer.score(await request.body()), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
