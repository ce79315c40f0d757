//! `doorward lint`: finds dangerous settings in an Envoy configuration.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::report::{self, Format, Note};
use super::{FAILED, INVALID, complain, print};
use crate::config::{self, Config};
use crate::lint::{self, Document, Expected, Finding, Severity, TRAPS};

/// Check an Envoy configuration for settings that bypass the check, let a client forge an identity
/// or hide an outage.
///
/// FILE is a static configuration (YAML or JSON), a /config_dump, or a file of `resources`; `-` is
/// standard input.
#[derive(Args)]
#[command(after_help = "Examples:\n  doorward lint envoy.yaml --config doorward.yaml\n  \
    curl -s http://127.0.0.1:9901/config_dump | doorward lint -\n\n\
    Exit codes: 0 nothing found, 1 findings, 2 the file cannot be read.")]
pub(super) struct LintArgs {
    /// The file, or `-` for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Doorward's configuration, to check against its rules, its identity headers and the headers
    /// that it reads.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Skip this rule; may be repeated.
    #[arg(long, value_name = "RULE", value_parser = PossibleValuesParser::new(TRAPS.map(|trap| trap.name)), hide_possible_values = true)]
    allow: Vec<String>,
    /// The format of the findings.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as `--format json`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// The rule that machine-readable formats name for a file that cannot be read.
const UNREADABLE: &str = "unreadable-configuration";

pub(super) fn run(args: &LintArgs) -> ExitCode {
    let name = args.file.display().to_string();
    let findings = match find(args) {
        Ok(findings) => findings,
        Err(error) => {
            complain(format_args!("{name}: {error}"));
            let note = [Note { is_error: true, rule: UNREADABLE, line: None, path: String::new(), message: error }];
            // The reader of an empty report would take it for a clean result, or for a missing
            // one.
            let _ = match args.format {
                Format::Text if !args.json => ExitCode::SUCCESS,
                Format::Text | Format::Json => {
                    print(format_args!("{:#}", json!({"file": name, "error": note[0].message, "findings": []})))
                }
                Format::Github => print(report::github(&name, &note).trim_end()),
                Format::Sarif => {
                    let rules = [(UNREADABLE, "Name a readable configuration of Envoy.")];
                    print(format_args!("{:#}", report::sarif(&name, &rules, &note)))
                }
            };
            return ExitCode::from(INVALID);
        }
    };
    let printed = match args.format {
        Format::Text if !args.json => print(text(&name, &findings)),
        Format::Text | Format::Json => print(format_args!("{:#}", json!({"file": name, "findings": findings}))),
        Format::Github => print(report::github(&name, &notes(&findings)).trim_end()),
        Format::Sarif => {
            let rules = TRAPS.each_ref().map(|trap| (trap.name, trap.fix));
            print(format_args!("{:#}", report::sarif(&name, &rules, &notes(&findings))))
        }
    };
    if findings.is_empty() { printed } else { ExitCode::from(FAILED) }
}

fn find(args: &LintArgs) -> Result<Vec<Finding>, String> {
    let expected = match &args.config {
        Some(file) => {
            let loaded = Config::load(file, config::environment());
            Expected::from(&loaded.map_err(|faults| format!("--config is not valid:\n{faults}"))?.config)
        }
        None => Expected::default(),
    };
    let document = Document::parse(&read(&args.file).map_err(|error| format!("cannot be read: {error}"))?)?;
    let mut findings = lint::lint(&document, &expected)?;
    findings.retain(|finding| !args.allow.iter().any(|allowed| allowed == finding.rule));
    Ok(findings)
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let most = Document::MAX_BYTES as u64 + 1; // One more byte, so that a file that is too large is noticed.
    if file == Path::new("-") {
        std::io::stdin().take(most).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(most).read_to_string(&mut text)?;
    }
    Ok(text)
}

fn notes(findings: &[Finding]) -> Vec<Note> {
    let note = |finding: &Finding| Note {
        is_error: finding.severity == Severity::Error,
        rule: finding.rule,
        line: finding.line,
        path: finding.path.clone(),
        message: format!("{}; write: {}", finding.message, finding.fix),
    };
    findings.iter().map(note).collect()
}

fn text(name: &str, findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for Finding { line, path, rule, severity, message, fix, source } in findings {
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        lines.push(format!(
            "{name}{line}: {severity}: {rule}: {message}\n    at  {path}\n    fix {fix}\n    see {source}\n"
        ));
    }
    lines.push(match findings {
        [] => format!("{name}: nothing found of {} rules", TRAPS.len()),
        [_] => format!("{name}: 1 finding"),
        _ => format!("{name}: {} findings", findings.len()),
    });
    lines.join("\n")
}
