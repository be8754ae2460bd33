//! Builds a node from its configuration and wires its parts: the only file that sees all of them.
//!
//! ```text
//! store ── writer ──┐                        ┌── queue and exchange actors on the workers' arbiters
//! transport ────────┼── MetadataActor ───────┤
//! inbox, directory ─┘   (the main thread)    └── listener, connection actors on the workers' arbiters
//! ```
//!
//! Clients are let in once the cluster's metadata has taken this run in: only then does a majority stand behind it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use anyhow::Context as _;
use tokio::sync::watch;
use warren_cluster::NodeId;
use warren_cluster::group::shell::Io;
use warren_cluster::log::writer::Writer;
use warren_cluster::log::{LogStore, rocks::RocksStore};
use warren_cluster::tls::{Callers, Credentials};
use warren_cluster::transport::{self, GrpcTransport, Peer, Transport};
use warren_cluster::version::Versions;

use crate::admin::Admin;
use crate::alarms::{self, Alarms, Bounds};
use crate::auth::{Algorithm, PasswordHash};
use crate::config::{Address, Config};
use crate::connection::Limits;
use crate::connection::census::Census;
use crate::connection::registry::Total;
use crate::data_dir::{DIRECTORY, INCARNATION, LOG, first_run, next_incarnation};
use crate::directory::Directory;
use crate::fatal;
use crate::joining::{self, Joined};
use crate::listener::{Listener, Service};
use crate::mailbox::Mailbox as _;
use crate::metadata::actor::{Environment, MetadataActor};
use crate::metadata::replica::News;
use crate::metadata::{AddUser, Bootstrap, Run, View};
use crate::node::NodeInbox;
use crate::recovery;
use crate::renewal;

/// How long connections may take to end when the node stops.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// By so much a node that would begin a cluster alone waits longer than others pause that look for it.
const FOUNDS_ALONE_SLACK: Duration = Duration::from_millis(500);

/// Runs the node until it is told to stop by a signal.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let name = config.node.name.clone();
    let node = node_id(&name);
    // Before anything is opened: files that are wrong are the operator's to mend.
    let cluster_files = config.cluster.tls_files();
    let cluster_tls = cluster_files.map(|files| Credentials::read(files, Callers::Verified));
    let cluster_tls = cluster_tls.transpose().context("cluster.tls_*")?;
    let client_tls = config
        .tls
        .files()
        .map(|(files, callers)| Credentials::read(files, callers));
    let client_tls = client_tls.transpose().context("tls.*")?;
    let certificates: Vec<Credentials> = cluster_tls.iter().chain(&client_tls).cloned().collect();
    actix::spawn(renewal::watch(certificates.clone())?);
    let data_dir = config.node.data_dir.clone();
    fatal::watch(&data_dir);
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("node.data_dir {} cannot be made", data_dir.display()))?;
    let identity = warren_cluster::log::Identity {
        cluster: config.cluster.name.clone(),
        node: name.clone(),
    };
    let joined = joining::at_start(&config, cluster_tls.as_ref()).await?;
    let store: Arc<dyn LogStore> = Arc::new(RocksStore::open(data_dir.join(LOG), &identity)?);
    let incarnation = next_incarnation(&data_dir.join(INCARNATION))?;
    let is_new = joined.as_ref().is_some_and(|joined| !joined.begun);
    let lost = store.groups()?.is_empty() && !is_new;
    let directory_run = first_run(&data_dir.join(DIRECTORY), lost, incarnation)?;
    if let Some(joined) = &joined {
        let begun = true;
        joining::write(
            &data_dir,
            &Joined {
                begun,
                ..joined.clone()
            },
        )?;
    }
    let kept = recovery::read(&data_dir)?;
    if let Some(kept) = &kept {
        tracing::warn!(survivors = ?kept.survivors, cluster_id = kept.cluster_id, "an operator had the cluster go on without its majority");
    }
    let recovery = kept.map(|kept| kept.decision(incarnation));

    let view = View::new();
    let directory = Arc::new(Directory::new(node, incarnation, view.clone()));
    let inbox = Arc::new(NodeInbox::new(
        directory.clone(),
        store.clone(),
        generation(incarnation),
    ));
    let bounds = Bounds {
        memory: config.limits.memory_high_watermark,
        disk_free: config.limits.disk_free_limit,
        data_dir: data_dir.clone(),
    };
    let alarms = Arc::new(Alarms::new(node, bounds));
    inbox.connect_alarms(alarms.clone());
    let census = Arc::new(Census::default());
    let admin = Arc::new(Admin::new(
        &config,
        directory.clone(),
        view.clone(),
        alarms.clone(),
        certificates,
        census.clone(),
    ));
    census.connect(admin.clone());

    let own = config
        .cluster
        .address_of(&name)
        .unwrap_or(&config.cluster.listen)
        .to_string();
    let others = config.cluster.seeds.iter().filter(|member| member.name != name);
    let mut peers: Vec<Peer> = others
        .map(|member| Peer {
            node: node_id(&member.name),
            name: member.name.clone(),
            address: member.address.to_string(),
        })
        .collect();
    let mut members: Vec<NodeId> = Vec::new();
    let (mut era, mut reformed) = (u64::MAX, 0);
    match &joined {
        None => {
            members.extend(peers.iter().map(|peer| peer.node));
            members.push(node);
            members.sort_unstable();
        }
        // Its cluster tells it who its members are.
        Some(joined) => {
            let unknown = |peer: &Peer| !peers.iter().any(|known| known.node == peer.node);
            let told: Vec<Peer> = joined.peers(&name).into_iter().filter(unknown).collect();
            peers.extend(told);
            reformed = joined.answer.reformed;
            if joined.directory == directory_run {
                era = joined.answer.era;
            }
        }
    }
    let nodes = members.clone();
    // Those that were lost must not be heard before it is agreed on that they are.
    let mut first_peers = peers.clone();
    if let Some(recovery) = &recovery {
        first_peers.retain(|peer| recovery.survivors.contains(&peer.node));
    }
    let versions = match config.cluster.version_max {
        0 => Versions::default(),
        most => Versions::new(most),
    };
    let membership = transport::Membership::default();
    let introduction = transport::Identity {
        address: match own.parse::<Address>() {
            Ok(address) if !address.is_unspecified() => own.clone(),
            _ => String::new(),
        },
        membership: membership.clone(),
        cluster: config.cluster.name.clone(),
        name: name.clone(),
        node,
        incarnation,
        directory: directory_run,
        versions: versions.clone(),
        secret: transport::Secret::new(config.cluster.link_secret().as_bytes().to_vec()),
    };
    let options = transport::Options {
        silence_ms: config.cluster.silence_ms,
        tls: cluster_tls.clone(),
        ..transport::Options::default()
    };
    let founds_alone_after = Duration::from_millis(options.retries_within_ms()) + FOUNDS_ALONE_SLACK;
    let listen = resolve(&config.cluster.listen)?;
    let links = GrpcTransport::start(introduction, listen, first_peers, options, inbox.clone(), admin.clone())?;
    let transport: Arc<dyn Transport> = links.transport();
    directory.set_transport(transport.clone());

    let writer = Arc::new(Writer::start(store.clone(), |error| fatal::stop(&error))?);
    let workers = match config.runtime.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let arbiters: Vec<Arbiter> = (0..workers).map(|_| Arbiter::new()).collect();
    let handles: Vec<ArbiterHandle> = arbiters.iter().map(Arbiter::handle).collect();
    let (ready_tx, mut ready) = watch::channel(false);
    let (drains_tx, mut drains) = watch::channel(false);
    let environment = Environment {
        view: view.clone(),
        directory: directory.clone(),
        io: Io {
            node,
            run: incarnation,
            directory: directory_run,
            versions,
            store,
            writer: writer.clone(),
            transport: transport.clone(),
            events: inbox.clone(),
        },
        members,
        peers,
        era,
        reformed,
        founds_alone_after,
        membership,
        recovery,
        arbiters: handles.clone(),
        bootstrap: bootstrap(&config),
        announce: (Run { node, incarnation }, name.clone(), own),
        queue_cache_bytes_max: usize::try_from(config.limits.queue_cached_bytes_max).unwrap_or(usize::MAX),
        ready: ready_tx,
        drains: drains_tx,
    };
    let (metadata, client) = MetadataActor::start_here(environment);
    admin.connect(client.clone(), transport.clone());
    let metadata = metadata.recipient();
    inbox.connect(writer.clone(), metadata.clone(), admin.clone());
    for (node, state) in transport.peers() {
        metadata.always(News::Peer { node, state });
    }
    tracing::info!(node = name, incarnation, cluster = %config.cluster.listen, "waits for its cluster");

    let stopped = stop_signal();
    tokio::pin!(stopped);
    let joined = tokio::select! {
        joined = ready.wait_for(|ready| *ready) => joined.is_ok(),
        signal = &mut stopped => { signal?; false }
    };
    let joined = match &config.definitions.path {
        Some(path) if joined => tokio::select! {
            imported = admin.import_file(path) => { imported?; true }
            signal = &mut stopped => { signal?; false }
        },
        _ => joined,
    };
    if joined {
        let limits = Limits {
            channel_max: config.amqp.channel_max,
            frame_max: config.amqp.frame_max,
            heartbeat_s: config.amqp.heartbeat_s,
            channels_max: config.amqp.channels_max,
            consumers_max: config.amqp.consumers_max,
            default_queue_type: config.amqp.default_queue_type,
            queues_max: config.cluster.queues_max,
            exchanges_max: config.cluster.exchanges_max,
            message_size_max: config.amqp.message_size_max,
            handshake_timeout_ms: config.amqp.handshake_timeout_ms,
            consumer_timeout_ms: config.amqp.consumer_timeout_ms,
            publish_timeout_ms: config.amqp.publish_timeout_ms,
            unapplied_bytes_max: usize::try_from(config.limits.unapplied_bytes_max).unwrap_or(usize::MAX),
            // Room for some messages of the largest size, whose frames clients with threads may mix.
            unfinished_bytes_max: usize::try_from(config.amqp.message_size_max.saturating_mul(16))
                .unwrap_or(usize::MAX),
            group_size: config.cluster.group_size,
            members: nodes,
            loopback_users: config.users.loopback_users.clone(),
            cert_name: config.tls.cert_name,
            cluster_name: config.cluster.name.clone(),
            node_name: name.clone(),
            ..Limits::default()
        };
        let service = Service {
            connections_max: config.amqp.connections_max,
            connections: Total::default(),
            limits,
            arbiters: handles.clone(),
            directory: directory.clone(),
            metadata: client.clone(),
            alarms: alarms.clone(),
            census: census.clone(),
        };
        let mut goes_on = true;
        while goes_on {
            let plain = config.amqp.listen.iter().map(|address| (address, None));
            let secured = config.tls.listen.iter().map(|address| (address, client_tls.clone()));
            let mut listeners = Vec::new();
            for (address, tls) in plain.chain(secured) {
                let listener = Listener::start(resolve(address)?, tls, service.clone())
                    .with_context(|| format!("cannot listen for clients on {address}"))?;
                listeners.push(listener);
            }
            admin.serves_clients(&listeners);
            let registries = listeners.iter().map(|listener| listener.registry().clone()).collect();
            let watch = actix::spawn(alarms::watch(alarms.clone(), directory.clone(), registries));
            tracing::info!(node = name, "ready");
            goes_on = tokio::select! {
                drained = drains.wait_for(|drains| *drains) => drained.is_ok(),
                signal = &mut stopped => { signal?; false }
            };
            admin.serves_clients(&[]);
            tracing::info!(drains = goes_on, "stops to serve clients");
            for listener in listeners {
                let left = listener.stop(SHUTDOWN).await;
                if left > 0 {
                    tracing::warn!(left, "connections did not end in time");
                }
            }
            if goes_on {
                goes_on = tokio::select! {
                    revived = drains.wait_for(|drains| !*drains) => revived.is_ok(),
                    signal = &mut stopped => { signal?; false }
                };
            }
            watch.abort();
        }
    }
    // The links first: what arrives after it would find no actor.
    tokio::task::spawn_blocking(move || {
        links.shutdown();
        writer.stop();
    })
    .await?;
    Ok(())
}

fn bootstrap(config: &Config) -> Bootstrap {
    let password = PasswordHash::new(
        Algorithm::Sha256,
        rand::random(),
        config.users.default_pass.reveal().as_bytes(),
    );
    Bootstrap {
        cluster_id: format!("{:032x}", rand::random::<u128>()),
        vhost: config.users.default_vhost.as_str().into(),
        user: AddUser {
            name: config.users.default_user.as_str().into(),
            password: Some(password),
            tags: vec!["administrator".into()],
        },
    }
}

/// The same on every node and for ever: FNV-1a of the name, never 0.
pub fn node_id(name: &str) -> NodeId {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

/// Where this run's numbers for staged snapshots start: seconds, of which a run uses fewer than pass.
pub fn generation(incarnation: u64) -> u32 {
    u32::try_from(incarnation / 1_000 % u64::from(u32::MAX))
        .unwrap_or(1)
        .max(1)
}

fn resolve(address: &Address) -> anyhow::Result<SocketAddr> {
    let text = address.to_string();
    let mut found = text
        .to_socket_addrs()
        .with_context(|| format!("the address {text} cannot be looked up"))?;
    found.next().with_context(|| format!("the address {text} is unknown"))
}

async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
