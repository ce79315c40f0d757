//! MCP servers behind Doorward: rules for their tools, and clients that find out where to get a token.

mod resource;
mod rules;
mod sdk;

use crate::support::TempDir;
use crate::support::doorward::run;

/// The result of `doorward validate` for a configuration: its exit code and its text.
fn validate(config: &str) -> (i32, String) {
    let dir = TempDir::new();
    let file = dir.path().join("doorward.yaml");
    std::fs::write(&file, config).unwrap();
    let (code, out, error) = run(&["validate", "--config", file.to_str().unwrap()], "");
    (code, format!("{out}{error}"))
}
