//! The load generator's process; what it does is `warren_broker::perf`'s.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::Parser;
use tokio::runtime::{Builder, Runtime};
use warren_broker::perf::{self, Error, Options};

/// As clap ends when it does not understand the command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("warren-perf: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { USAGE } else { 1 })
        }
    }
}

fn measure() -> Result<(), Error> {
    let options = Options::parse().checked()?;
    let report = runtime(options.threads)?.block_on(perf::run(&options))?;
    let mut json = serde_json::to_vec_pretty(&report).map_err(io::Error::from)?;
    json.push(b'\n');
    match &options.json {
        Some(path) if path == Path::new("-") => return show(&json),
        Some(path) => fs::write(path, &json)?,
        None => {}
    }
    show(report.to_string().as_bytes())
}

/// One thread costs least: nothing is ever woken on another.
fn runtime(threads: u32) -> io::Result<Runtime> {
    if threads == 1 {
        Builder::new_current_thread().enable_all().build()
    } else {
        Builder::new_multi_thread()
            .worker_threads(threads as usize)
            .enable_all()
            .build()
    }
}

fn show(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}
