//! The binary: everything is in the library's [`tcp_status::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tcp_status::cli::main()
}
