//! Links the unwinder into the library: Envoy's distroless images lack `libgcc_s.so.1`.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let Some(folder) = std::env::var_os("OUT_DIR") else { return };
    // The linker takes the first `libgcc_s.so` that it finds; this one is a linker script that names the archives.
    if std::fs::write(Path::new(&folder).join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc )\n").is_ok() {
        println!("cargo:rustc-cdylib-link-arg=-L{}", folder.to_string_lossy());
    }
}
