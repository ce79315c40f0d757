//! The pages: their links resolve, their YAML is valid configuration, and the README's commands have the described
//! effect.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;
use serde_json::Value;

use crate::ledger::support::free_port;
use crate::support::TempDir;
use crate::support::doorward::{Doorward, run};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::Tokens;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every Markdown page that the repository has.
pub fn pages() -> Vec<PathBuf> {
    let listed =
        Command::new("git").args(["-C", ROOT, "ls-files", "-co", "--exclude-standard", "*.md"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let pages: Vec<_> = listed.lines().map(|path| Path::new(ROOT).join(path)).filter(|path| path.exists()).collect();
    assert!(pages.len() >= 20, "{pages:?}");
    pages
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// A page without its code, where brackets are not links.
fn prose(text: &str) -> String {
    let fenced = Regex::new(r"(?ms)^```.*?^```$").unwrap();
    let inline = Regex::new(r"`[^`\n]*`").unwrap();
    // A link's text may be code; the rest keeps the link.
    inline.replace_all(&fenced.replace_all(text, ""), "code").into_owned()
}

/// The anchors of a page's headings, as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let fenced = Regex::new(r"(?ms)^```.*?^```$").unwrap();
    let headings = Regex::new(r"(?m)^#+ +(.+)$").unwrap();
    let plain = fenced.replace_all(text, "").into_owned();
    headings
        .captures_iter(&plain)
        .map(|heading| {
            let kept = heading[1].to_lowercase();
            let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
            kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
        })
        .collect()
}

/// The links of a page that lead to nothing.
fn broken(page: &Path, text: &str) -> Vec<String> {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let prose = prose(text);
    let targets = link.captures_iter(&prose).map(|found| found[1].to_owned());
    targets
        .filter(|target| !target.starts_with("https://") && !target.starts_with("http://"))
        .filter(|target| {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = page.parent().unwrap().join(path);
            let has = |text: &str| anchor.is_empty() || anchors(text).contains(anchor);
            if target.starts_with('#') { !has(text) } else { !path.exists() || !anchor.is_empty() && !has(&read(path)) }
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let faults: Vec<_> = pages()
        .iter()
        .flat_map(|page| broken(page, &read(page)).into_iter().map(|link| format!("{}: {link}", page.display())))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = Path::new(ROOT).join("docs/README.md");
    let text = "# A b\n[a](faq.md) [b](#a-b) [c](https://example.com/x) `[d](none)`\n```\n[e](none)\n```\n";
    assert_eq!(broken(&page, text), Vec::<String>::new());
    let text = "# A\n[a](none.md) [b](#b) [c](faq.md#none) [`d`](../none)\n";
    assert_eq!(broken(&page, text), ["none.md", "#b", "faq.md#none", "../none"]);
}

#[test]
fn every_page_of_the_documentation_is_on_its_list() {
    let list = read(Path::new(ROOT).join("docs/README.md"));
    let decisions = read(Path::new(ROOT).join("docs/decisions/README.md"));
    for page in pages() {
        let Ok(name) = page.strip_prefix(Path::new(ROOT).join("docs")) else { continue };
        let name = name.to_str().unwrap();
        let (list, name) = match name.split_once('/') {
            _ if name.ends_with("README.md") => continue,
            Some(("inbox", _)) => continue, // Text on its way to a page.
            Some((_, name)) => (&decisions, name),
            None => (&list, name),
        };
        assert!(list.contains(&format!("]({name})")), "{name} is on no list");
    }
}

/// The code blocks of a language under a heading, in order.
fn blocks(text: &str, heading: &str, language: &str) -> Vec<String> {
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let block = Regex::new(&format!(r"(?ms)^```{language}\n(.*?)^```$")).unwrap();
    block.captures_iter(section).map(|found| found[1].to_owned()).collect()
}

/// The steps of a reader of the README: its own blocks, on other ports, with a token of a new key.
#[tokio::test(flavor = "multi_thread")]
async fn the_readme_leads_from_nothing_to_a_401() {
    let tokens = Tokens::new();
    let keys = JwksServer::start(tokens.issuer.jwks()).await;
    let steps =
        blocks(&read(Path::new(ROOT).join("README.md")), "From nothing to a 401, with a token of your own", "sh");
    assert_eq!(steps.len(), 3, "a configuration, three commands, the questions");
    let (check, http) = (free_port(), free_port());
    let script = steps.join("\n").replace(":9192", &format!(":{http}")).replace(":9191", &format!(":{check}"));
    let binary = Path::new(env!("CARGO_BIN_EXE_doorward")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let dir = TempDir::new();
    let output = Command::new("timeout")
        .args(["60", "bash", "-euc", &format!("trap 'kill %1' EXIT\n{script}")])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("ISSUER", doorward::dev::ISSUER)
        .env("AUDIENCE", doorward::dev::AUDIENCE)
        .env("JWKS_URL", keys.url())
        .env("TOKEN", tokens.of("alice"))
        .env("DOORWARD__LISTEN__CHECK", format!("127.0.0.1:{check}"))
        .env("DOORWARD__LISTEN__HTTP", format!("127.0.0.1:{http}"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (shown, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}\n{errors}");
    let statuses: Vec<_> = shown.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)).collect();
    assert_eq!(statuses, ["200", "204", "401"], "{shown}\n{errors}");
    assert!(shown.contains("x-user-id: alice"), "{shown}");
    assert!(shown.contains(r#""reason":"signed_out""#), "{shown}");
}

/// `doorward.schema.json` is what editors and the Helm chart read.
#[test]
fn the_schema_file_is_what_the_command_prints() {
    let (code, schema, _) = run(&["validate", "--schema"], "");
    assert_eq!(code, 0);
    let file = read(Path::new(ROOT).join("doorward.schema.json"));
    assert!(file == schema, "doorward.schema.json is not up to date: run docs/generate.sh");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_of_the_api_is_what_is_served() {
    let doorward = Doorward::start(&Tokens::new().config("")).await;
    let (status, served) = doorward.get("/openapi.json").await;
    assert_eq!(status, 200);
    let served: Value = serde_json::from_str(&served).unwrap();
    let file: Value = serde_json::from_str(&read(Path::new(ROOT).join("docs/openapi.json"))).unwrap();
    assert!(file == served, "docs/openapi.json is not up to date: run docs/generate.sh");
}

/// Editors find it from every sample.
#[test]
fn every_sample_names_the_schema() {
    let listed =
        Command::new("git").args(["-C", ROOT, "ls-files", "-co", "--exclude-standard", "*.yaml"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let files = listed.lines().filter(|file| !file.contains("testdata") && !file.starts_with("tests/"));
    let mut seen = 0;
    for file in files.map(|file| Path::new(ROOT).join(file)).filter(|file| file.exists()) {
        let text = read(&file);
        if !text.lines().any(|line| line == "issuers:") {
            continue;
        }
        let first = text.lines().next().unwrap();
        let Some(schema) = first.strip_prefix("# yaml-language-server: $schema=") else {
            panic!("{}: the first line names no schema", file.display());
        };
        // Where the package puts the schema, or a path in the repository.
        let installed = schema == "file:///usr/share/doorward/doorward.schema.json";
        let here = file.parent().unwrap().join(schema).canonicalize();
        assert!(installed || here.is_ok_and(|path| path.ends_with("doorward.schema.json")), "{}", file.display());
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}

/// As is what `docs/generate.sh` makes from it.
#[test]
fn the_page_of_settings_is_made_from_the_schema() {
    let made = Command::new("python3").args(["docs/configuration.py", "--check"]).current_dir(ROOT).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Configurations on pages, those of one section with an issuer beside it.
#[test]
fn configurations_on_the_pages_are_valid() {
    const ISSUERS: &str = "issuers: [{name: main, issuer: https://auth.example.com, audiences: [shop], \
                           keys: {jwks_url: https://auth.example.com/jwks}}]\n";
    let block = Regex::new(r"(?ms)^```yaml\n(.*?)^```$").unwrap();
    let settings = Path::new(ROOT).join("docs/configuration.md");
    let dir = TempDir::new();
    std::fs::create_dir(dir.path().join(".doorward")).unwrap();
    std::fs::write(dir.path().join(".doorward/dev.jwks.json"), Tokens::new().issuer.jwks().to_string()).unwrap();
    let file = dir.path().join("doorward.yaml");
    let mut seen = 0;
    for page in pages().iter().filter(|page| page.starts_with(Path::new(ROOT).join("docs"))) {
        for found in block.captures_iter(&read(page)) {
            let config = match &found[1] {
                part if part.contains('…') => continue,
                whole if whole.starts_with("issuers:") => whole.to_owned(),
                section if *page == settings && !section.starts_with('#') => format!("{ISSUERS}{section}"),
                _ => continue,
            };
            std::fs::write(&file, &config).unwrap();
            let (code, _, error) = run(&["validate", "--config", file.to_str().unwrap()], "");
            assert_eq!(code, 0, "{}:\n{config}\n{error}", page.display());
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen}");
}
