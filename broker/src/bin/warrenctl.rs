//! The operator's command line: calls a node and shows its answer. What a line means, and how an answer looks, is
//! `warren_broker::ctl`'s.

use std::{
    io::{self, BufRead, Write},
    process::ExitCode,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};
use warren_broker::{
    admin::protocol::{Request, status},
    config::process_env,
    ctl::{Exit, Failure, Invocation, Next},
    joining::{self, Joined},
    json,
};
use warren_cluster::tls::{Callers, Credentials};
use warren_cluster::transport::{AdminError, Secret, admin_call};

/// Between two calls of a command that waits for something.
const PAUSE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let Exit { status, text } = run().unwrap_or_else(|exit| exit);
    // Whoever closed the pipe does not want the rest.
    let _closed = if status == 0 {
        show(&text)
    } else {
        io::stderr().write_all(text.as_bytes())
    };
    ExitCode::from(status)
}

fn run() -> Result<Exit, Exit> {
    let mut invocation = Invocation::parse(std::env::args_os(), process_env(), |path| std::fs::read_to_string(path))?;
    let failed = |error: io::Error| Exit {
        status: status::SOFTWARE,
        text: format!("Error:\n{error}\n"),
    };
    if invocation.wants_password() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(failed)?;
        if let Some(exit) = invocation.ends_with(&line) {
            return Ok(exit);
        }
        invocation.set_password(&line);
    }
    if let Some(file) = invocation.wants_document() {
        let text = match file {
            Some(file) => std::fs::read_to_string(file).map_err(|error| Exit {
                status: status::DATA,
                text: format!("Error:\n{file} cannot be read: {error}\n"),
            })?,
            None => io::read_to_string(io::stdin().lock()).map_err(failed)?,
        };
        invocation.set_document(text);
    }
    if let Some(exit) = invocation.ends_offline() {
        return Ok(exit);
    }
    if let Some(config) = invocation.joins().cloned() {
        let refused = |text: String| Exit {
            status: status::DATA,
            text: format!("Error:\n{text}\n"),
        };
        let directory =
            joining::number_directory(&config.node.data_dir).map_err(|error| refused(format!("{error:#}")))?;
        if joining::read(&config.node.data_dir).is_ok_and(|joined| joined.is_some()) {
            return Err(refused("the node has joined a cluster already: start it".to_owned()));
        }
        invocation
            .set_directory(directory)
            .map_err(|error| refused(error.to_string()))?;
    }
    if let Some(banner) = invocation.banner() {
        let _closed = show(&banner);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let exit = runtime.block_on(converse(&invocation));
    if let Some(file) = invocation.output_file()
        && exit.status == 0
    {
        std::fs::write(file, &exit.text).map_err(|error| Exit {
            status: status::DATA,
            text: format!("Error:\n{file} cannot be written: {error}\n"),
        })?;
        return Ok(Exit {
            status: 0,
            text: String::new(),
        });
    }
    Ok(exit)
}

fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

async fn converse(invocation: &Invocation) -> Exit {
    let deadline = Instant::now() + invocation.timeout;
    loop {
        let outcome = timeout_at(deadline, call(invocation))
            .await
            .unwrap_or(Err(Failure::TimedOut))
            .and_then(|rows| keep(invocation, rows));
        match invocation.judge(outcome) {
            Next::Exit(exit) => return exit,
            Next::Again(exit) if Instant::now() + PAUSE >= deadline => return exit,
            Next::Again(_) => sleep(PAUSE).await,
        }
    }
}

/// Keeps what the cluster has answered to a node that joins it.
fn keep(invocation: &Invocation, rows: Vec<serde_json::Value>) -> Result<Vec<serde_json::Value>, Failure> {
    let (Some(config), Request::JoinCluster { directory, .. }) = (invocation.joins(), invocation.request()) else {
        return Ok(rows);
    };
    let failed = |text: String| Failure::Refused {
        status: status::SOFTWARE,
        text,
    };
    let answer = rows.first().cloned().and_then(|row| serde_json::from_value(row).ok());
    let joined = Joined {
        directory: *directory,
        begun: false,
        answer: answer.ok_or_else(|| failed("the node does not know what joining is".to_owned()))?,
    };
    joining::write(&config.node.data_dir, &joined).map_err(|error| failed(format!("{error:#}")))?;
    Ok(rows)
}

async fn call(invocation: &Invocation) -> Result<Vec<serde_json::Value>, Failure> {
    let failed = |error: serde_json::Error| {
        refused(&AdminError {
            status: status::SOFTWARE.into(),
            text: error.to_string(),
        })
    };
    let request = serde_json::to_string(invocation.request()).map_err(failed)?;
    let secret = Secret::new(invocation.secret.reveal().to_owned());
    let tls = match &invocation.tls {
        None => None,
        Some(files) => Some(
            Credentials::read(files.clone(), Callers::Verified).map_err(|error| Failure::Refused {
                status: status::CONFIG,
                text: error.to_string(),
            })?,
        ),
    };
    let rows = admin_call(&invocation.node, &invocation.cluster, secret, tls, request)
        .await
        .map_err(|error| {
            if error.status == u32::from(status::UNAVAILABLE) {
                Failure::Unreachable(error.text)
            } else {
                refused(&error)
            }
        })?;
    let rows = rows.collect().await.map_err(|error| refused(&error))?;
    rows.iter().map(|row| json::read(row).map_err(failed)).collect()
}

fn refused(error: &AdminError) -> Failure {
    let status = u8::try_from(error.status).unwrap_or(status::SOFTWARE);
    Failure::Refused {
        status,
        text: error.text.clone(),
    }
}
