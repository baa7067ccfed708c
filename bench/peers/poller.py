"""What a team would write beside the first idea: a process that requests the account, parses it, puts it into Redis.

`python -m bench.peers.poller EXCHANGE_URL REDIS_PORT SECONDS`: once per so many seconds. Several of them would each
request it, nothing judges the answer, and no reader knows how old it is.
"""

import asyncio
import json
import sys

import httpx
import uvloop
from redis.asyncio import Redis


async def main(exchange: str, redis_port: int, interval_s: float) -> None:
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(base_url=exchange, trust_env=False) as client, Redis(port=redis_port) as redis:
        due = loop.time()
        while True:
            answer = (await client.get("/account")).raise_for_status()
            json.loads(answer.content)  # raises for what is no JSON
            await redis.set("account", answer.content)
            due += interval_s
            await asyncio.sleep(due - loop.time())


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
