//! `doorward validate`: checks a configuration and prints every fault.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::INVALID;
use super::report::{self, Format, Note};
use crate::config::{self, Config, Fault, Place};

/// Check a configuration; print every fault with its place, its key and the remedy.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  doorward validate --config doorward.yaml\n\n\
    Exit codes: 0 valid, 2 invalid. DOORWARD__SECTION__KEY variables override the file.")]
pub(super) struct ValidateArgs {
    /// The configuration file.
    #[arg(long, env = "DOORWARD_CONFIG", value_name = "FILE", required_unless_present = "schema")]
    config: Option<PathBuf>,
    /// Print the JSON Schema of the file instead.
    #[arg(long)]
    schema: bool,
    /// The format of faults and warnings; all but `text` go to standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Runs the command with the environment of the process.
pub(super) fn run(args: &ValidateArgs) -> ExitCode {
    let code = execute(args, config::environment(), &mut io::stdout().lock(), &mut io::stderr().lock());
    code.map_or(ExitCode::FAILURE, ExitCode::from) // The reader of the output is gone.
}

/// Faults and warnings go to `err`, the verdict and the schema to `out`.
fn execute(
    args: &ValidateArgs,
    env: impl Iterator<Item = (String, String)>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    if args.schema {
        writeln!(out, "{:#}", config::schema())?;
        return Ok(0);
    }
    let Some(path) = &args.config else { return Ok(INVALID) };
    let name = path.display().to_string();
    let loaded = Config::load(path, env);
    if args.format != Format::Text {
        let (faults, warnings) = match &loaded {
            Ok(loaded) => (&[][..], &*loaded.warnings),
            Err(faults) => (&*faults.faults, &[][..]),
        };
        let notes: Vec<_> = notes(faults, true).chain(notes(warnings, false)).collect();
        match args.format {
            Format::Github => write!(out, "{}", report::github(&name, &notes))?,
            Format::Sarif => {
                let rules = [(FAULT, "Doorward refuses the configuration."), (WARNING, "Probably a mistake.")];
                writeln!(out, "{:#}", report::sarif(&name, &rules, &notes))?;
            }
            Format::Text | Format::Json => {
                let listed = |faults: &[Fault]| faults.iter().map(to_json).collect::<Vec<_>>();
                let all = json!({"file": name, "valid": loaded.is_ok(), "faults": listed(faults), "warnings": listed(warnings)});
                writeln!(out, "{all:#}")?;
            }
        }
        return Ok(if loaded.is_ok() { 0 } else { INVALID });
    }
    match loaded {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                writeln!(err, "warning: {}", warning.line(&name))?;
            }
            writeln!(out, "{name}: ok")?;
            Ok(0)
        }
        Err(faults) => {
            let (count, noun) = (faults.faults.len(), if faults.faults.len() == 1 { "fault" } else { "faults" });
            writeln!(err, "{faults}\n{name}: {count} {noun}")?;
            Ok(INVALID)
        }
    }
}

/// The names of the rules in machine-readable formats.
const FAULT: &str = "invalid-configuration";
const WARNING: &str = "doubtful-configuration";

fn notes(faults: &[Fault], is_error: bool) -> impl Iterator<Item = Note> {
    faults.iter().map(move |fault| Note {
        is_error,
        rule: if is_error { FAULT } else { WARNING },
        line: match fault.place {
            Some(Place::Line(line)) => Some(line),
            _ => None,
        },
        path: fault.path.to_string(),
        message: match &fault.value {
            Some(value) => format!("{} (found {value})", fault.message),
            None => fault.message.clone(),
        },
    })
}

fn to_json(fault: &Fault) -> Value {
    let (line, variable) = match &fault.place {
        Some(Place::Line(line)) => (Some(line), None),
        Some(Place::Variable(name)) => (None, Some(name)),
        None => (None, None),
    };
    json!({"path": fault.path.to_string(), "message": fault.message, "found": fault.value, "line": line, "variable": variable})
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        validate: ValidateArgs,
    }

    #[track_caller]
    fn check(args: &[&str], expected: u8) -> (String, String) {
        let cli = Cli::try_parse_from([&["doorward"], args].concat()).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = execute(&cli.validate, std::iter::empty(), &mut out, &mut err).unwrap();
        assert_eq!(code, expected, "{args:?}");
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_good_file_is_ok_and_a_bad_one_shows_its_faults() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/testdata/example.yaml");
        assert_eq!(check(&["--config", example], 0), (format!("{example}: ok\n"), String::new()));

        let missing = check(&["--config", "/no/such/file.yaml"], 2);
        assert_eq!(missing.0, "");
        assert!(missing.1.starts_with("/no/such/file.yaml: cannot be read: "), "{missing:?}");
        assert!(missing.1.ends_with("/no/such/file.yaml: 1 fault\n"), "{missing:?}");
    }

    #[test]
    fn each_format_has_the_faults() {
        let dir = std::env::temp_dir().join(format!("doorward-validate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("bad.yaml");
        std::fs::write(&file, "issuers: []\nrules:\n- {name: a, match: {path: '/admin/**'}}\n").unwrap();
        let (name, args) = (file.to_str().unwrap(), |format| ["--config", file.to_str().unwrap(), "--format", format]);
        let (json, err) = check(&args("json"), 2);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["valid"], err.as_str()), (&json!(false), ""));
        let fault =
            json["faults"].as_array().unwrap().iter().find(|fault| fault["path"] == "rules[0].match.path").unwrap();
        assert_eq!((&fault["line"], &fault["found"]), (&json!(3), &json!("\"/admin/**\"")));
        let github = check(&args("github"), 2).0;
        let begins = format!(
            "::error file={},line=3,title=invalid-configuration::rules[0].match.path: ",
            name.replace(':', "%3A")
        );
        assert!(github.lines().any(|line| line.starts_with(&begins)), "{github}");
        let sarif: Value = serde_json::from_str(&check(&args("sarif"), 2).0).unwrap();
        let results = sarif["runs"][0]["results"].as_array().unwrap();
        assert!(results.iter().all(|result| result["ruleId"] == "invalid-configuration") && results.len() >= 2);
        std::fs::remove_dir_all(&dir).unwrap();
        let good = check(
            &["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/testdata/example.yaml"), "--format", "json"],
            0,
        );
        assert!(good.0.contains("\"valid\": true"), "{}", good.0);
    }

    #[test]
    fn the_schema_is_json_with_the_sections() {
        let (out, _) = check(&["--schema"], 0);
        let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(schema["required"], serde_json::json!(["issuers"]));
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn a_file_must_be_named() {
        assert!(Cli::try_parse_from(["doorward"]).is_err() || std::env::var_os("DOORWARD_CONFIG").is_some());
    }
}
