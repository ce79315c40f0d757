//! `examples/mcp`: the official MCP client and server and oidc-provider, through real Envoy. Its steps check themselves.

use std::process::Command;

use crate::support::envoy;

#[test]
fn the_example_runs_from_discovery_to_the_end_of_its_agent() {
    let Some(binary) = envoy::binary() else { return };
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(provider), Some(python)) = (set("OIDC_PROVIDER"), set("MCP_PYTHON")) else {
        eprintln!(
            "SKIPPED: OIDC_PROVIDER or MCP_PYTHON does not name what the example needs; ./tests/run.sh makes both"
        );
        return;
    };
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mcp/demo.sh"))
        .envs([("DOORWARD", env!("CARGO_BIN_EXE_doorward")), ("ENVOY", &binary)])
        .envs([("OIDC_PROVIDER", provider), ("MCP_PYTHON", python)])
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{error}");
    for step in
        ["discovered the resource", "stepped up", "its next request is refused", "the agent's open call is over"]
    {
        assert!(out.contains(step), "{step} is missing in {out}");
    }
}
