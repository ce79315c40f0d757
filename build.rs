//! The text of `doorward --version`: version, commit, its date, and the compiler.
//!
//! The commit and the date come from the environment (`DOORWARD_COMMIT`, `DOORWARD_COMMIT_DATE`), else from git, else
//! they are left out: two builds of one commit are equal, and a build without git works. A debug build does not ask
//! git: every commit would compile everything again.

use std::env;
use std::process::Command;

fn main() {
    for name in ["DOORWARD_COMMIT", "DOORWARD_COMMIT_DATE"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let given = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let (mut commit, mut date) = (given("DOORWARD_COMMIT"), given("DOORWARD_COMMIT_DATE"));
    if is_release && commit.is_none() {
        // Written whenever a branch moves, by a commit or by a checkout.
        if let Some(log) = said(&["git", "rev-parse", "--git-path", "logs/HEAD"]) {
            println!("cargo:rerun-if-changed={log}");
        }
        commit = said(&["git", "rev-parse", "HEAD"]);
        date = date.or_else(|| said(&["git", "log", "-1", "--format=%cs"]));
    }
    // Nothing but what these look like, whatever the environment holds: it becomes a line of output.
    let plain = |text: &String| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    let commit = commit.filter(plain).map(|commit| commit.chars().take(12).collect());
    let compiler = said(&[&env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()), "--version"]);
    let compiler = compiler.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
    let profile = (!is_release).then(|| "debug build".to_owned());
    let known: Vec<String> = [commit, date.filter(plain), compiler, profile].into_iter().flatten().collect();
    println!(
        "cargo:rustc-env=DOORWARD_VERSION={} ({})",
        env::var("CARGO_PKG_VERSION").unwrap_or_default(),
        known.join(", ")
    );
}

/// The one line that a command prints; `None` if it is not there or fails.
fn said(command: &[&str]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!line.is_empty() && !line.contains('\n')).then_some(line)
}
