"""What a team would write first: a framework's route that gets the account's document from Redis, and filters it.

Somebody else refreshes the document; here it is written once.
"""

import json
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from redis.asyncio import Redis

app = FastAPI()
redis = Redis(port=int(sys.argv[2]))


@app.get("/assets/{asset}")
async def get_asset(asset: str) -> dict[str, Any]:
    account = json.loads(await redis.get("account") or "{}")
    for row in account["assets"]:
        if row["asset"] == asset:
            found: dict[str, Any] = row
            return found
    raise HTTPException(404)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
