use std::process::ExitCode;

/// Measured: `benches/compare.sh`. Without huge pages (its feature `no_thp`): huge pages made no decision faster,
/// and took 9 MB more in every sidecar.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    doorward::cli::run()
}
