"""An agent with the official MCP client, an MCP server, an OAuth provider, Envoy and Doorward, all on free ports.

Run by demo.sh. Every step is checked: the exit code is 0 if all of it happened.
"""

import asyncio
import hashlib
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ADMIN_KEY = secrets.token_urlsafe(32)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        while True:  # Below the range of outgoing connections, one of which could take the port before its server does.
            try:
                one.bind(("127.0.0.1", secrets.choice(range(20000, 32000))))
                break
            except OSError:
                pass
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


# By the ports that stand in the files.
PORTS = dict(zip((9000, 8080, 9191, 9192, 10000, 9901, 9100), free_ports(7), strict=True))
RESOURCE = f"http://127.0.0.1:{PORTS[10000]}/mcp"
ISSUER = f"http://127.0.0.1:{PORTS[9000]}"
DOORWARD = f"http://127.0.0.1:{PORTS[9192]}"
REDIRECT = f"http://127.0.0.1:{PORTS[9100]}/callback"


def with_ports(file):
    text = file.read_text()
    for known, free in PORTS.items():
        text = text.replace(f":{known}", f":{free}").replace(f"port_value: {known}", f"port_value: {free}")
    return text


class Programs:
    """What runs beside this one; it ends with it."""

    def __init__(self, folder):
        self.folder, self.running = folder, []

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "w")
        program = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.running.append((name, program))

    def stop(self):
        for _, program in reversed(self.running):
            program.send_signal(signal.SIGTERM)
        for _, program in self.running:
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()

    async def answers(self, url):
        async with httpx2.AsyncClient() as http:
            for _ in range(1200):
                for name, program in self.running:
                    if program.poll() is not None:
                        sys.exit(f"{name} ended:\n{(self.folder / f'{name}.log').read_text()}")
                try:
                    if (await http.get(url)).status_code < 500:
                        return
                except httpx2.HTTPError:
                    pass
                await asyncio.sleep(0.05)
        sys.exit(f"{url} does not answer")


class Agent:
    """The agent's side: what it keeps, and the browser of its user."""

    def __init__(self):
        self.tokens = None
        # Registered before; a client may as well register itself where the provider lets it.
        self.client = OAuthClientInformationFull(
            client_id="agent-7", redirect_uris=[REDIRECT], token_endpoint_auth_method="none", issuer=ISSUER
        )
        self.asked = []
        self.answer = None
        self.is_stopped = False

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client

    async def browse(self, url):
        """The user's browser, which agrees to what the agent asks for."""
        if self.is_stopped:
            raise PermissionError("the user does not agree any more")
        self.asked.append(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))["scope"])
        async with httpx2.AsyncClient(timeout=60) as browser:
            while not url.startswith(REDIRECT):
                response = await browser.get(url)
                if "location" not in response.headers:
                    raise RuntimeError(f"{url}: {response.status_code} {response.text}")
                url = urllib.parse.urljoin(url, response.headers["location"])
        self.answer = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))

    async def return_to_agent(self):
        return AuthorizationCodeResult(**{name: self.answer.get(name) for name in ("code", "state", "iss")})

    def oauth(self):
        metadata = OAuthClientMetadata(
            redirect_uris=[REDIRECT], token_endpoint_auth_method="none", grant_types=["authorization_code"]
        )
        return OAuthClientProvider(RESOURCE, metadata, self, self.browse, self.return_to_agent)


def check(is_so, what):
    if not is_so:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok  {what}", flush=True)


async def story():
    seen = []  # Status and path of every response that the agent gets.

    async def note(response):
        seen.append((response.status_code, response.request.url.path, response.headers.get("www-authenticate", "")))

    agent = Agent()
    async with create_mcp_http_client(auth=agent.oauth()) as http:
        http.event_hooks = {"response": [note]}
        async with Client(streamable_http_client(RESOURCE, http_client=http)) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            refused = next(entry for entry in seen if entry[0] == 401)
            metadata = f"http://127.0.0.1:{PORTS[10000]}/.well-known/oauth-protected-resource/mcp"
            check(f'resource_metadata="{metadata}"' in refused[2], "without a token: 401, and where to learn more")
            check((200, urllib.parse.urlsplit(metadata).path, "") in seen, "discovered the resource and its issuer")
            check(agent.asked == ["mcp"], f"authorized with the scope of the rule: {agent.asked[0]}")
            check(sorted(tools) == ["balance", "transfer_money", "watch"], f"listed the tools: {', '.join(tools)}")
            check((await client.call_tool("balance", {})).content[0].text == "100", "called a tool")

            before = len(seen)
            sent = await client.call_tool("transfer_money", {"to": "bob", "amount": 5})
            refused = next((entry for entry in seen[before:] if entry[0] == 403), (None, None, ""))
            check('error="insufficient_scope"' in refused[2] and 'scope="mcp transfer"' in refused[2],
                  "a transfer without its scope: 403 insufficient_scope, with the scopes that it needs")
            check("transfer" in agent.asked[-1].split(), f"stepped up: {agent.asked[-1]}")
            check(sent.content[0].text == "sent 5 to bob", "the same transfer is allowed")

            heard = asyncio.Event()

            async def progress(*_):
                heard.set()

            watching = asyncio.create_task(client.call_tool("watch", {}, progress_callback=progress))
            await asyncio.wait_for(heard.wait(), 60)
            check(not watching.done(), "a stream is open")

            agent.is_stopped = True
            token, body = agent.tokens.access_token, {"kind": "actor", "id": "agent-7"}
            async with httpx2.AsyncClient(timeout=60) as operator:
                began = time.monotonic()
                stopped = await operator.post(f"{DOORWARD}/v1/revocations?wait=all&timeout=20s", json=body,
                                              headers={"authorization": f"Bearer {ADMIN_KEY}"})
                refused = await operator.get(RESOURCE, headers={"authorization": f"Bearer {token}"})
                took = (time.monotonic() - began) * 1000
            receipt = stopped.json()
            check(stopped.status_code == 201 and receipt["confirmed"], "the operator stops agent-7, whoever it acts for")
            check(refused.status_code == 401 and refused.json()["reason"] == "revoked",
                  f"its next request is refused, {took:.0f} ms after the order was sent")
            check(receipt["streams"] >= 1, f"streams that ended: {receipt['streams']}")
            try:
                await asyncio.wait_for(watching, 60)
                ended = False
            except TimeoutError:
                ended = False
            except Exception:
                ended = True
            check(ended, "the agent's open call is over")


async def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        programs = Programs(folder)
        digest = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
        admin = {"keys": [{"name": "operator", "sha256": digest, "may": ["revoke"]}]}
        (folder / "doorward.yaml").write_text(f"{with_ports(HERE / 'doorward.yaml')}\nadmin: {json.dumps(admin)}\n")
        # Longer than the sample's second: the steps are on trial here, not the speed of this machine.
        envoy = with_ports(ROOT / "envoy/mcp.yaml").replace("\n" + " " * 24 + "timeout: 1s\n", "\n" + " " * 24 + "timeout: 10s\n")
        envoy = envoy.replace("message_timeout: 1s", "message_timeout: 10s")
        envoy = envoy.replace("{interval: 5s, timeout: 1s}", "{interval: 5s, timeout: 5s}")
        (folder / "envoy.yaml").write_text(envoy)
        provider = [str(PORTS[9000]), RESOURCE, REDIRECT]
        try:
            programs.start("provider", "node", HERE / "provider.mjs", os.environ["OIDC_PROVIDER"], *provider)
            programs.start("server", sys.executable, HERE / "server.py", str(PORTS[8080]))
            await programs.answers(f"{ISSUER}/jwks")
            programs.start("doorward", os.environ["DOORWARD"], "serve", "--config", folder / "doorward.yaml")
            programs.start("envoy", os.environ["ENVOY"], "--use-dynamic-base-id", "--concurrency", "1", "--log-level",
                           "warn", "-c", folder / "envoy.yaml")
            for url in (f"http://127.0.0.1:{PORTS[8080]}/mcp", f"{DOORWARD}/readyz", RESOURCE):
                await programs.answers(url)
            await story()
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-4000:]}", file=sys.stderr)
            raise
        finally:
            programs.stop()


asyncio.run(main())
