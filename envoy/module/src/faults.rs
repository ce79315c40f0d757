//! For tests: a hook panics when the file that `DOORWARD_FAULT` names holds its name.

#[cfg(feature = "faults")]
pub fn meet(hook: &str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os("DOORWARD_FAULT").map(PathBuf::from)) else { return };
    let wanted = std::fs::read_to_string(file).unwrap_or_default();
    #[expect(clippy::manual_assert, clippy::panic, reason = "this is what it is for")]
    if wanted.trim() == hook {
        panic!("asked to, with Bearer canary-in-a-panic");
    }
}

#[cfg(not(feature = "faults"))]
pub const fn meet(_: &str) {}
