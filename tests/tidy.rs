//! The dependency map of `src/lib.rs`, enforced: a module uses only permitted ones.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The modules of this crate that each top-level module may use.
const MAY_USE: [(&str, &[&str]); 14] = [
    ("clock", &["authz"]),
    ("dev", &["authz"]),
    ("instruments", &[]),
    ("metrics", &["authz", "instruments", "sources"]),
    ("traces", &["clock"]),
    ("sources", &["authz", "clock", "instruments"]),
    ("state", &["authz", "clock", "metrics", "sources", "traces"]),
    ("config", &["authz", "clock", "sources", "state", "traces"]),
    ("lint", &["authz", "config"]),
    ("api", &["authz", "clock", "config", "metrics", "sources", "state", "traces"]),
    ("engine", &["api", "authz", "clock", "config", "metrics", "sources", "state", "traces"]),
    ("serve", &["api", "config", "engine", "sources"]),
    ("cli", &["api", "authz", "clock", "config", "dev", "engine", "lint", "serve", "sources", "state"]),
    ("main", &["cli"]),
];

/// Within the heart, bottom up: each may use those before it only.
const AUTHZ_ORDER: [&str; 30] = [
    "claims",
    "denial",
    "refusal",
    "encoded",
    "jwks",
    "readings",
    "path",
    "revocation",
    "status_list",
    "replay",
    "token",
    "token_cache",
    "stream_proof",
    "message",
    "logout_token",
    "refresh_token",
    "signals",
    "introspection",
    "mcp",
    "rule",
    "request_uri",
    "resource",
    "token_source",
    "rules",
    "api_key",
    "authorizer",
    "signing",
    "status_publisher",
    "identity",
    "answer",
];

fn sources() -> Vec<(PathBuf, String)> {
    files_of("src")
}

/// The files of a folder without their tests, by their paths in it.
fn files_of(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    walk(&src, &mut found);
    let is_test =
        |path: &Path| path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")));
    let relative = found.into_iter().map(|(path, text)| (path.strip_prefix(&src).unwrap().to_owned(), text));
    relative.filter(|(path, _)| !is_test(path)).collect()
}

/// The code without its unit tests and comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn top_module(path: &Path) -> String {
    path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The modules of this crate that a text names, by `crate::NAME`.
fn used(code: &str) -> BTreeSet<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let nested = |rest: &str| {
        rest.strip_prefix('{').map(|list| {
            list.split('}').next().unwrap_or_default().split(',').map(|item| name(item.trim())).collect::<Vec<_>>()
        })
    };
    code.split("crate::")
        .skip(1)
        .flat_map(|rest| nested(rest).unwrap_or_else(|| vec![name(rest)]))
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn no_module_uses_one_it_may_not_know() {
    for (path, text) in sources() {
        let module = top_module(&path);
        if module == "lib" {
            continue;
        }
        let (_, allowed) =
            MAY_USE.iter().find(|(name, _)| *name == module).unwrap_or_else(|| panic!("{module} is not on the map"));
        for name in used(&code(&text)) {
            assert!(name == module || allowed.contains(&name.as_str()), "{} uses crate::{name}", path.display());
        }
    }
}

#[test]
fn the_decision_crate_is_layered() {
    for (path, text) in files_of("doorward-authz/src") {
        let code = code(&text);
        let file = path.file_stem().unwrap().to_str().unwrap();
        let Some(rank) = AUTHZ_ORDER.iter().position(|name| *name == file) else { continue };
        for other in &AUTHZ_ORDER[rank + 1..] {
            assert!(
                !code.contains(&format!("super::{other}::")),
                "{} uses {other}, which comes after it",
                path.display()
            );
        }
    }
}

#[test]
fn each_library_has_one_place() {
    for (word, places) in [
        ("envoy_types", &["api/check"][..]),
        ("fred::", &["sources/ledger/redis"]),
        ("redb::", &["sources/ledger/embedded"]),
        ("opentelemetry", &["traces"]),
        ("tokio::spawn", &["engine"]),
        ("tokio::signal", &["serve"]),
        ("umask", &["serve"]),
        ("setrlimit", &["serve"]),
        // The only client for other servers, with its proxies, redirects and bounds; the commands are clients of
        // Doorward itself.
        ("reqwest::Client::", &["sources/http", "cli/server"]),
    ] {
        for (path, text) in sources() {
            let named = code(&text).contains(word);
            let placed = places.iter().any(|place| path.to_str().unwrap().starts_with(place));
            assert!(!named || placed, "{} names {word}", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_at_the_boundary_to_envoy_alone() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    for (path, text) in files_of("envoy/module/src") {
        let file = path.to_str().unwrap();
        let is_boundary = ["abi.rs", "hooks.rs", "host.rs"].contains(&file);
        let is_unsafe = code(&text).contains("unsafe ") || code(&text).contains("unsafe(");
        assert_eq!(is_unsafe, is_boundary, "{file}");
    }
}

/// A host process has its own signals, limits, allocator and end.
#[test]
fn the_engine_inside_envoy_leaves_the_process_alone() {
    let inside = ["src/engine", "src/api", "src/sources", "src/state", "doorward-authz/src", "envoy/module/src"];
    for (path, text) in inside.into_iter().flat_map(files_of) {
        for word in ["tokio::signal", "umask", "setrlimit", "process::exit", "process::abort", "global_allocator"] {
            assert!(!code(&text).contains(word), "{} has {word}", path.display());
        }
    }
}

/// A release has one version: the manifests name images with the version of this crate.
#[test]
fn manifests_name_the_version_that_is_built() {
    fn check(file: &Path, found: &mut usize) {
        if file.is_dir() {
            for entry in std::fs::read_dir(file).unwrap() {
                check(&entry.unwrap().path(), found);
            }
            return;
        }
        let Ok(text) = std::fs::read_to_string(file) else { return };
        let tags = [
            "example.com/doorward:",
            "example.com/doorward-four-services:",
            "example.com/doorward, newTag: ",
            "example.com/doorward-four-services, newTag: ",
            "\nversion: ",
            "\nappVersion: ",
        ];
        for rest in tags.iter().flat_map(|tag| text.split(tag).skip(1)) {
            let version: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            if version.contains('.') {
                assert_eq!(version.trim_end_matches('.'), env!("CARGO_PKG_VERSION"), "{}", file.display());
                *found += 1;
            }
        }
    }
    let mut found = 0;
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s"), &mut found);
    assert!(found > 10, "{found}");
}
