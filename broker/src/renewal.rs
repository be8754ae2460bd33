//! Certificates that are renewed while the node runs: their files are looked at every few seconds, and on SIGHUP.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use warren_cluster::tls::Credentials;

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// Keeps these as their files are, for as long as it is polled. From the call on, SIGHUP does not end the process.
pub fn watch(credentials: Vec<Credentials>) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                () = tokio::time::sleep(PERIOD), if !credentials.is_empty() => false,
            };
            for one in &credentials {
                let one = one.clone();
                // Reading blocks, and a file may be on a slow disk.
                let looked = tokio::task::spawn_blocking(move || (one.reload(), one)).await;
                let Ok((outcome, one)) = looked else { continue };
                let file = one.files().cert.display();
                match outcome {
                    Ok(true) => tracing::info!(%file, "a certificate was taken anew"),
                    Ok(false) if asked => tracing::info!(%file, "a certificate is as it was"),
                    Ok(false) => {}
                    Err(error) => tracing::error!(%error, "a changed certificate is not taken; the one before goes on"),
                }
            }
        }
    })
}
