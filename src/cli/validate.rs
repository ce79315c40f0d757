//! `doorward validate`: checks a configuration and prints every fault.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::INVALID;
use crate::config::{self, Config};

/// Check a configuration; prints every fault with its place, its key and what would be right.
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
}

/// Runs the command with the environment of the process.
pub(super) fn run(args: &ValidateArgs) -> ExitCode {
    let code = execute(args, config::environment(), &mut io::stdout().lock(), &mut io::stderr().lock());
    code.map_or(ExitCode::FAILURE, ExitCode::from) // Whoever reads the output is gone.
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
    match Config::load(path, env) {
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
