use super::*;

#[test]
fn the_example_loads() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/testdata/example.yaml");
    let loaded = Config::load(&file, std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.watched_files(), [file]);
    assert_eq!(loaded.config.authorizer().rules.len(), 5);
}
