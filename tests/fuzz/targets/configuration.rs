//! A configuration file, and the environment that overrides it.

use std::path::Path;

use doorward::config::Config;

/// YAML; after a NUL, variables `NAME=VALUE`, one a line.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.contains("/dev") || text.contains("/proc") {
        return; // A file that the operator names may block, as anywhere else.
    }
    let (yaml, variables) = text.split_once('\0').unwrap_or((text, ""));
    let variables =
        || variables.lines().filter_map(|line| line.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned()));
    let parse = || Config::parse(yaml, "fuzz.yaml", Path::new("/nonexistent"), variables());
    let first = parse();
    // Most of the time goes by in parsing: of eight texts one is parsed again.
    if data.len().is_multiple_of(8) {
        match (&first, parse()) {
            (Ok(first), Ok(second)) => assert_eq!(first.warnings, second.warnings),
            (Err(first), Err(second)) => assert_eq!(first.faults, second.faults),
            _ => panic!("the same text is right or wrong"),
        }
    }
    match first {
        Err(faults) => {
            assert!(!faults.faults.is_empty(), "refused for no reason");
            for fault in &faults.faults {
                assert!(!fault.message.is_empty());
                assert!(!fault.line(&faults.file).contains(['\r', '\n', '\u{1b}']), "{:?}", fault.line(&faults.file));
            }
        }
        Ok(loaded) => {
            let config = loaded.config;
            assert!(!config.issuers.is_empty(), "no issuer, so no token can be good");
            for issuer in &config.issuers {
                assert!(
                    !issuer.trusted.algorithms.is_empty()
                        && issuer.trusted.max_lifetime >= std::time::Duration::from_secs(1)
                );
                assert!(config.retention >= issuer.trusted.retention(), "forgotten before it is over");
            }
            let authorizer = config.authorizer();
            assert_eq!(authorizer.issuers.len(), config.issuers.len());
            drop(config.responder());
            assert!(config.needs_restart(&config).is_empty());
        }
    }
}
