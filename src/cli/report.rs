//! The findings of `lint` and `validate`, as text and in machine-readable formats.

use clap::ValueEnum;
use serde_json::{Value, json};

/// The format of findings.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Format {
    /// Lines for people.
    Text,
    /// A JSON object.
    Json,
    /// Workflow commands of GitHub Actions, which mark the lines of a change.
    Github,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
}

/// A finding in the terms of other tools' formats.
pub(super) struct Note {
    pub(super) is_error: bool,
    pub(super) rule: &'static str,
    /// From 1.
    pub(super) line: Option<u64>,
    /// The key concerned.
    pub(super) path: String,
    pub(super) message: String,
}

impl Note {
    const fn level(&self) -> &'static str {
        if self.is_error { "error" } else { "warning" }
    }

    fn text(&self) -> String {
        if self.path.is_empty() { self.message.clone() } else { format!("{}: {}", self.path, self.message) }
    }
}

/// Workflow commands, one line each; text from a file is escaped, so that it cannot end a line or
/// a property.
pub(super) fn github(file: &str, notes: &[Note]) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let line = |note: &Note| {
        let line = note.line.map(|line| format!(",line={line}")).unwrap_or_default();
        let (file, rule) = (property(file), property(note.rule));
        format!("::{} file={file}{line},title={rule}::{}\n", note.level(), data(&note.text()))
    };
    notes.iter().map(line).collect()
}

/// A SARIF log. `rules`: the checked rules with their remedies.
pub(super) fn sarif(file: &str, rules: &[(&str, &str)], notes: &[Note]) -> Value {
    let uri = || match url::Url::from_file_path(file) {
        Ok(url) => url.to_string(),
        Err(()) => file.replace('%', "%25").replace(' ', "%20"),
    };
    let rules: Vec<_> = rules.iter().map(|(id, help)| json!({"id": id, "help": {"text": help}})).collect();
    let result = |note: &Note| {
        // A note without a line concerns the whole file, or a value from the environment.
        let mut place = json!({"artifactLocation": {"uri": uri()}});
        if let Some(line) = note.line {
            place["region"] = json!({"startLine": line});
        }
        let mut location = json!({"physicalLocation": place});
        if !note.path.is_empty() {
            location["logicalLocations"] = json!([{"fullyQualifiedName": note.path}]);
        }
        json!({
            "ruleId": note.rule,
            "level": note.level(),
            "message": {"text": note.text()},
            "locations": [location],
        })
    };
    let driver = json!({"name": "doorward", "version": env!("CARGO_PKG_VERSION"), "rules": rules});
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": notes.iter().map(result).collect::<Vec<_>>()}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(path: &str, message: &str) -> Note {
        Note { is_error: true, rule: "fail-open", line: Some(7), path: path.to_owned(), message: message.to_owned() }
    }

    #[test]
    fn a_workflow_command_is_one_line_whatever_a_file_holds() {
        let notes = [note("a.b", "50 %\n::error::forged"), Note { line: None, is_error: false, ..note("", "x") }];
        assert_eq!(
            github("dir,a:b.yaml", &notes),
            "::error file=dir%2Ca%3Ab.yaml,line=7,title=fail-open::a.b: 50 %25%0A::error::forged\n\
             ::warning file=dir%2Ca%3Ab.yaml,title=fail-open::x\n"
        );
    }

    #[test]
    fn a_sarif_log_names_rule_place_and_level() {
        let log = sarif("conf/my envoy.yaml", &[("fail-open", "failure_mode_allow: false")], &[note("a.b", "x")]);
        let run = &log["runs"][0];
        assert_eq!(run["tool"]["driver"]["rules"][0]["id"], run["results"][0]["ruleId"]);
        assert_eq!(run["results"][0]["level"], "error");
        let place = &run["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "conf/my%20envoy.yaml");
        assert_eq!(place["region"]["startLine"], 7);
    }
}
