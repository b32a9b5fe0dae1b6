//! `spillway-engine --parent-pid PID [--chaos [--simulated]]`: the child that holds one model. Started by the gateway, never by hand.
//! `spillway-engine --list-devices` is for people: what this build can compute on here.
//!
//! stdin is one end of a Unix stream socketpair that carries frames both ways; stdout and stderr are for llama.cpp's logs
//! and short notes to the operator.

use spillway_engine::{llama, memory, process, process::exit, session, simulated};
use std::{
    io::Write,
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
};

fn main() -> ExitCode {
    if std::env::args_os().skip(1).eq(["--list-devices"]) {
        return list_devices();
    }
    let Some(arguments) = process::parse_arguments(std::env::args_os().skip(1)) else {
        process::say("usage: spillway-engine --parent-pid PID [--chaos [--simulated]] | --list-devices");
        return ExitCode::from(exit::WRONG_PARENT);
    };
    if let Err(reason) = process::confine(arguments.parent_pid) {
        process::say(&reason);
        return ExitCode::from(exit::WRONG_PARENT);
    }
    if !arguments.simulated {
        process::bound_spinning(std::env::args_os().skip(1));
        log_to_stderr();
    }
    // A close-on-exec copy: whatever llama.cpp may start inherits no socket.
    let stream = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => UnixStream::from(socket),
        Err(error) => {
            process::say(&format!("stdin: {error}"));
            return ExitCode::from(exit::PROTOCOL);
        }
    };
    let code = if arguments.simulated {
        session::serve(stream, arguments.chaos, simulated::load)
    } else {
        session::serve(stream, arguments.chaos, llama::load)
    };
    ExitCode::from(code)
}

fn list_devices() -> ExitCode {
    let lines = llama::device::list().join("\n");
    match writeln!(std::io::stdout(), "{lines}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// llama.cpp's own lines, without its per-token chatter. They name files, devices and sizes, never a prompt.
fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(memory::Watched::default)
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_ansi(false)
        .without_time()
        .init();
    llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
}
