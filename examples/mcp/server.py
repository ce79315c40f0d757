"""An MCP server that knows nothing of tokens: a bank with three tools. `python server.py PORT`"""

import asyncio
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

bank = MCPServer("bank")


@bank.tool()
def balance() -> str:
    """What is left."""
    return "100"


@bank.tool()
def transfer_money(to: str, amount: int) -> str:
    """Sends money to somebody."""
    return f"sent {amount} to {to}"


@bank.tool()
async def watch(ctx: Context) -> str:
    """Reports the balance again and again, for as long as somebody listens."""
    seen = 0
    while True:
        seen += 1
        await ctx.report_progress(seen)
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    uvicorn.run(bank.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
