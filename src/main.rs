use std::process::ExitCode;

/// Measured: `benches/compare.sh`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // mimalloc asks for huge pages where the kernel lets programs choose. They made no decision faster, and
    // 9 MB more of every sidecar.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    doorward::cli::run()
}
