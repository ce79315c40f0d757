//! A real Chromium, driven by Playwright.

use std::path::Path;
use std::process::Command;

/// Where playwright-core is, and a Chromium.
pub struct Browser {
    playwright: String,
    chromium: String,
}

impl Browser {
    /// `None` if the test must report that it is skipped.
    pub fn find() -> Option<Self> {
        let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(playwright) = named("PLAYWRIGHT") else {
            eprintln!("SKIPPED: PLAYWRIGHT names no folder with playwright-core; ./tests/run.sh fetches it");
            return None;
        };
        let installed = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium"].map(str::to_owned);
        let Some(chromium) = named("CHROMIUM").into_iter().chain(installed).find(|path| Path::new(path).exists())
        else {
            eprintln!("SKIPPED: no Chromium is installed; ./tests/run.sh installs Debian's");
            return None;
        };
        Some(Self { playwright, chromium })
    }

    /// `node SCRIPT PLAYWRIGHT CHROMIUM ARGS…`, which exits with 0, or with 77 when no Chromium starts here.
    #[track_caller]
    pub fn run(&self, script: &str, args: &[&str]) {
        let mut command = Command::new("node");
        let output = command.arg(script).args([&self.playwright, &self.chromium]).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        eprintln!("{script} {args:?}\n{said}");
        if output.status.code() == Some(77) {
            eprintln!("SKIPPED: {} does not start here; why is above", self.chromium);
        } else {
            assert!(output.status.success(), "{said}");
        }
    }
}
