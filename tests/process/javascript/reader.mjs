// A public JavaScript client as a desk would run it, in a process of its own: what `python_reader.py` is for Python, with
// the same standard input, but for arguments, which are lists here, and the same standard output.
//
// `called`: every host and port that the process looked up or connected to, as Node's own hooks say, whatever the library.
// It ends at once, telling what it has, when that would be another host than this machine: nothing is sent there.

import { createHook } from "node:async_hooks";
import { subscribe } from "node:diagnostics_channel";
import { writeFileSync } from "node:fs";
import { text } from "node:stream/consumers";

const NEAR = new Set(["127.0.0.1", "localhost"]);
const callers = [];
let current = null;

function see(host, port) {
  current?.called.add(port ? `${host}:${port}` : host);
  if (current && !NEAR.has(host)) end();
}

// A request, on whichever connection.
function sent(where, tokenIsIn) {
  if (tokenIsIn) current?.told.add(where.host);
  see(where.hostname, where.port);
}

function end() {
  const own = ({ results, called, told, urls }) => ({ results, called: [...called].sort(), told: [...told].sort(), urls });
  writeFileSync("/dev/stdout", JSON.stringify(callers.map(own))); // the whole of it, before the process ends
  process.exit();
}

// What is looked up or connected to is filled in right after the hook is called.
const SEEN = {
  GETADDRINFOREQWRAP: ({ hostname }) => see(hostname),
  TCPCONNECTWRAP: ({ address, port }) => see(address, port),
};
createHook({
  init(_id, type, _trigger, resource) {
    if (type in SEEN) queueMicrotask(() => SEEN[type](resource));
  },
}).enable();
subscribe("http.client.request.start", ({ request }) => {
  const where = new URL(`${request.protocol}//${request.getHeader("host")}`);
  sent(where, request.getHeader("x-mbx-apikey") === current?.key);
});
subscribe("undici:request:create", ({ request }) => {
  sent(new URL(request.origin), String(request.headers).includes(current?.key));
});

const makers = {
  async ccxt({ base, key, secret, headers }, careless) {
    const { default: ccxt } = await import("ccxt");
    const exchange = new ccxt.binancecoinm({ apiKey: key, secret, enableRateLimit: false });
    if (!careless) exchange.options.fetchCurrencies = false;
    const dapi = `${base}/dapi`;
    const table = { dapiPublic: `${dapi}/v1`, dapiPrivate: `${dapi}/v1`, dapiPrivateV2: `${dapi}/v2` };
    if (careless) Object.assign(exchange.urls.api, table);
    else Object.assign(exchange.urls, { api: table, test: {}, demo: {} });
    return Object.assign(exchange, { headers });
  },
  async "Binance's SDK"({ base, key, secret, headers }, careless) {
    const { DerivativesTradingCoinFutures } = await import("@binance/derivatives-trading-coin-futures");
    const where = careless ? { baseURL: base } : { basePath: base }; // the first is no option of its
    const configuration = { apiKey: key, apiSecret: secret, timeout: 10_000, retries: 0, customHeaders: headers, ...where };
    return new DerivativesTradingCoinFutures({ configurationRestAPI: configuration }).restAPI;
  },
  async binance({ base, key, secret, headers }, careless) {
    const { CoinMClient } = await import("binance");
    const where = careless ? { baseURL: base } : { baseUrl: base }; // the first is no option of its
    const own = { api_key: key, api_secret: secret, disableTimeSync: false };
    return new CoinMClient({ ...own, ...where }, { headers: { ...headers } });
  },
};

function refused(error) {
  const raised = [];
  for (let kind = Object.getPrototypeOf(error); kind; kind = Object.getPrototypeOf(kind)) raised.push(kind.constructor.name);
  return { raised, code: error.code ?? null, said: String(error.message) };
}

const said = JSON.parse(await text(process.stdin));
for (const caller of said.callers) {
  current = { key: caller.key, results: [], called: new Set(), told: new Set(), urls: {} };
  callers.push(current);
  const client = await makers[said.client](caller, said.careless);
  for (const [method, args] of said.calls) {
    try {
      const found = await client[method](...args.map((arg) => arg ?? undefined));
      current.results.push(typeof found?.data === "function" ? await found.data() : found);
    } catch (error) {
      current.results.push(refused(error));
    }
  }
}
end();
