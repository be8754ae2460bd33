//! A cluster of three real processes with a directory and ports of its own, for tests that kill them.
//!
//! Nodes are counted from 0. Dropped, a cluster takes its processes with it, each by its id; its directory stays if the
//! test failed. The binaries are those in `WARREN_BIN`, else those of the last release build; `WARREN_TEST_LOG` is what
//! they log (`debug`, `warn,warren_broker=debug`).
//! One cluster runs at a time in a process: nine nodes on a small machine would only measure each other.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nodes that a cluster begins with.
pub const NODES: usize = 3;
/// Nodes that it can have: those beyond [`NODES`] join it.
pub const SLOTS: usize = 5;
/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a call of the operator's tool may take.
const CALL_S: u64 = 2;
/// Between two looks at the same condition.
const PAUSE: Duration = Duration::from_millis(25);
/// Below the range that outgoing connections take their ports from.
const FIRST_PORT: u16 = 28_000;
const PORTS_EACH: u16 = 20;
const SECRET: &str = "the secret of a cluster under test";

static RUNNING: Mutex<()> = Mutex::new(());
static NEXT_PORTS: AtomicU16 = AtomicU16::new(FIRST_PORT);

/// See the module.
pub struct Cluster {
    directory: PathBuf,
    binaries: PathBuf,
    ports: u16,
    nodes: [Option<Child>; SLOTS],
    /// Its members, as they should be.
    members: Vec<usize>,
    variables: Vec<(String, String)>,
    /// Its end was orderly, and nothing is left to look into.
    finished: bool,
    _alone: MutexGuard<'static, ()>,
}

/// A process that was to fail, and did.
pub struct Failed {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote in this run.
    pub log: String,
}

impl Cluster {
    /// Starts three nodes and waits until they serve clients.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with options, as the variables that set them.
    pub fn start_with(options: &[(&str, &str)]) -> Self {
        let mut cluster = Self::prepare(options);
        for node in 0..NODES {
            cluster.spawn(node);
        }
        cluster.await_whole();
        cluster
    }

    /// Writes the files, and starts nothing.
    pub fn prepare(options: &[(&str, &str)]) -> Self {
        let alone = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = free_ports();
        let directory = std::env::temp_dir().join(format!("warren-durability.{}.{ports}", std::process::id()));
        fs::create_dir_all(&directory).expect("the directory for temporary files can be written");
        let cluster = Self {
            directory,
            binaries: binaries(),
            ports,
            nodes: [const { None }; SLOTS],
            members: (0..NODES).collect(),
            variables: options
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            finished: false,
            _alone: alone,
        };
        for node in 0..NODES {
            fs::create_dir_all(cluster.path(node)).expect("the directory can be written");
            let seeds: Vec<usize> = (0..NODES).collect();
            cluster.write_configuration(node, &seeds);
        }
        cluster
    }

    /// Makes room for a new node that knows of the members, and of itself.
    pub fn prepare_new(&mut self, node: usize) {
        fs::create_dir_all(self.path(node)).expect("the directory can be written");
        let seeds: Vec<usize> = self.members.iter().copied().chain([node]).collect();
        self.write_configuration(node, &seeds);
    }

    /// Starts a new node that joins the cluster, and waits until it serves clients.
    #[track_caller]
    pub fn join(&mut self, node: usize) {
        self.prepare_new(node);
        self.configure(node, "cluster", "join = true");
        self.start_node(node);
        self.members.push(node);
    }

    /// From now on the cluster has these members.
    pub fn has_members(&mut self, members: &[usize]) {
        self.members = members.to_vec();
    }

    /// Its members, as they should be.
    pub fn members(&self) -> &[usize] {
        &self.members
    }

    fn write_configuration(&self, node: usize, seeds: &[usize]) {
        fs::write(self.file(node), self.configuration(node, seeds)).expect("the directory can be written");
    }

    fn configuration(&self, node: usize, seeds: &[usize]) -> String {
        let seeds: Vec<String> = seeds
            .iter()
            .map(|other| format!("\"{}={}\"", name(*other), self.cluster_address(*other)))
            .collect();
        format!(
            "[node]\nname = {:?}\ndata_dir = {:?}\n[cluster]\nlisten = {:?}\nseeds = [{}]\nsecret = {SECRET:?}\n\
             [amqp]\nlisten = [{:?}]\n[runtime]\nworkers = 2\n",
            name(node),
            self.data(node),
            self.cluster_address(node),
            seeds.join(", "),
            self.address(node),
        )
    }

    /// Adds keys to a section of a node's configuration file; the section is there, or comes last.
    pub fn configure(&self, node: usize, section: &str, keys: &str) {
        let text = fs::read_to_string(self.file(node)).expect("the file was written");
        let header = format!("[{section}]\n");
        let text = match text.split_once(&header) {
            Some((before, after)) => format!("{before}{header}{keys}\n{after}"),
            None => format!("{text}{header}{keys}\n"),
        };
        fs::write(self.file(node), text).expect("the directory can be written");
    }

    /// Where clients connect with TLS, if the node is told so.
    pub fn tls_address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", usize::from(self.ports) + 2 * SLOTS + node)
    }

    /// Where clients connect.
    pub fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", usize::from(self.ports) + node)
    }

    /// Where other nodes connect.
    pub fn cluster_address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", usize::from(self.ports) + SLOTS + node)
    }

    /// A node's own directory.
    pub fn path(&self, node: usize) -> PathBuf {
        self.directory.join(format!("node{}", node + 1))
    }

    /// A node's data directory.
    pub fn data(&self, node: usize) -> PathBuf {
        self.path(node).join("data")
    }

    /// A node's configuration file.
    pub fn file(&self, node: usize) -> PathBuf {
        self.path(node).join("warren.toml")
    }

    /// Everything a node has logged.
    pub fn log(&self, node: usize) -> String {
        fs::read(self.path(node).join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn command(&self, node: usize, variables: &[(&str, &str)]) -> Command {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(node).join("log"))
            .expect("the node's directory can be written");
        let mut command = own(&self.binaries.join("warren"));
        let output = log.try_clone().expect("an open file can be shared");
        command.arg("--config").arg(self.file(node)).stdout(output).stderr(log);
        if let Ok(filter) = std::env::var("WARREN_TEST_LOG") {
            command.env("WARREN_LOG_FILTER", filter);
        }
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command.envs(variables.iter().copied());
        command
    }

    /// Starts a node and waits for nothing.
    #[track_caller]
    pub fn spawn(&mut self, node: usize) {
        self.spawn_with(node, &[]);
    }

    /// The same with further options.
    #[track_caller]
    pub fn spawn_with(&mut self, node: usize, variables: &[(&str, &str)]) {
        assert!(self.nodes[node].is_none(), "node {} runs already", name(node));
        let mut command = self.command(node, variables);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.binaries.display()));
        self.nodes[node] = Some(child);
    }

    /// Starts a node and waits until it serves clients.
    #[track_caller]
    pub fn start_node(&mut self, node: usize) {
        self.spawn(node);
        self.await_ready(node);
    }

    /// Starts a node that must not be able to: its end and what it said.
    #[track_caller]
    pub fn refused(&mut self, node: usize, variables: &[(&str, &str)]) -> Failed {
        let before = self.log(node).len();
        self.spawn_with(node, variables);
        let status = self.await_exit(node);
        let log = self.log(node).split_off(before);
        assert!(!status.success(), "a node that could not start ended well: {log}");
        Failed { status, log }
    }

    /// Waits for the end of a node that ends by itself.
    #[track_caller]
    pub fn await_exit(&mut self, node: usize) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited(node) {
                return status;
            }
            if Instant::now() >= deadline {
                panic!(
                    "{} did not end within {PATIENCE:?}; its log:\n{}",
                    name(node),
                    self.tail(node)
                );
            }
            pause();
        }
    }

    /// How a node ended, if it has.
    pub fn exited(&mut self, node: usize) -> Option<ExitStatus> {
        let status = self.nodes[node]
            .as_mut()?
            .try_wait()
            .expect("a child can be waited for")?;
        self.nodes[node] = None;
        Some(status)
    }

    /// Whether a node's process is there.
    pub fn runs(&mut self, node: usize) -> bool {
        self.exited(node);
        self.nodes[node].is_some()
    }

    /// SIGKILL; returns when the process is gone.
    #[track_caller]
    pub fn kill(&mut self, node: usize) {
        let mut child = self.running(node);
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// SIGKILL to several at the same moment.
    #[track_caller]
    pub fn kill_all(&mut self, nodes: &[usize]) {
        let mut children: Vec<Child> = nodes.iter().map(|node| self.running(*node)).collect();
        for child in &mut children {
            child.kill().expect("a child can be killed");
        }
        for child in &mut children {
            child.wait().expect("a child can be waited for");
        }
    }

    #[track_caller]
    fn running(&mut self, node: usize) -> Child {
        if let Some(status) = self.exited(node) {
            panic!(
                "{} had ended by itself ({status}); its log:\n{}",
                name(node),
                self.tail(node)
            );
        }
        self.nodes[node]
            .take()
            .unwrap_or_else(|| panic!("{} does not run", name(node)))
    }

    /// SIGTERM; returns how the process ended.
    #[track_caller]
    pub fn stop(&mut self, node: usize) -> ExitStatus {
        self.signal(node, "TERM");
        self.await_exit(node)
    }

    /// SIGSTOP: the node stands still, and its connections stay open.
    #[track_caller]
    pub fn freeze(&mut self, node: usize) {
        self.signal(node, "STOP");
    }

    /// SIGCONT.
    #[track_caller]
    pub fn thaw(&mut self, node: usize) {
        self.signal(node, "CONT");
    }

    /// The process of a node that runs.
    #[track_caller]
    pub fn pid(&mut self, node: usize) -> u32 {
        assert!(
            self.runs(node),
            "{} does not run; its log:\n{}",
            name(node),
            self.tail(node)
        );
        self.nodes[node].as_ref().map_or(0, Child::id)
    }

    /// Sends a signal to a node that runs.
    #[track_caller]
    pub fn signal(&mut self, node: usize, signal: &str) {
        let pid = self.pid(node);
        assert!(send(pid, signal), "no signal to process {pid}");
    }

    /// Calls the operator's tool; its standard output, or what went wrong.
    pub fn ctl(&self, node: usize, arguments: &[&str]) -> Result<String, String> {
        self.ctl_within(node, CALL_S, arguments)
    }

    /// The same for a command that takes its time, in seconds.
    pub fn ctl_within(&self, node: usize, within_s: u64, arguments: &[&str]) -> Result<String, String> {
        let timeout = within_s.to_string();
        let output = own(&self.binaries.join("warrenctl"))
            .arg("--config")
            .arg(self.file(node))
            .args(["-q", "-t", &timeout])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// The rows of a listing.
    pub fn rows(&self, node: usize, arguments: &[&str]) -> Result<Vec<Value>, String> {
        let mut all = vec!["--formatter", "json"];
        all.extend(arguments);
        let text = self.ctl(node, &all)?;
        match serde_json::from_str(&text) {
            Ok(Value::Array(rows)) => Ok(rows),
            Ok(one) => Ok(vec![one]),
            Err(error) => Err(format!("{error}: {text}")),
        }
    }

    /// A queue's row with what tests ask for, as a node sees it.
    pub fn queue(&self, node: usize, queue: &str) -> Result<Value, String> {
        let columns = [
            "name",
            "state",
            "leader",
            "online",
            "messages",
            "messages_ready",
            "messages_unacknowledged",
            "consumers",
        ];
        let mut arguments = vec!["list_queues"];
        arguments.extend(columns);
        let rows = self.rows(node, &arguments)?;
        let found = rows.into_iter().find(|row| row["name"] == queue);
        found.ok_or_else(|| format!("{} does not know the queue {queue}", name(node)))
    }

    /// The node that leads a queue, as a node sees it; waits for one.
    #[track_caller]
    pub fn leader(&self, asked: usize, queue: &str) -> usize {
        await_some(&format!("{queue} has a leader"), PATIENCE, || {
            let row = self.queue(asked, queue)?;
            (0..SLOTS)
                .find(|node| row["leader"] == name(*node))
                .ok_or_else(|| row.to_string())
        })
    }

    /// Makes `node`, which has a replica, lead a queue, where it does not: it leads what was declared there, unless the
    /// machine was so busy then that others did not hear it.
    #[track_caller]
    pub fn lead(&self, asked: usize, queue: &str, node: usize) {
        let to = name(node);
        await_some(&format!("{to} leads {queue}"), PATIENCE, || {
            match self.leader(asked, queue) {
                led if led == node => Ok(()),
                _ => self.ctl(asked, &["transfer_leadership", queue, &to]).map(drop),
            }
        });
    }

    /// Waits until a node serves clients.
    #[track_caller]
    pub fn await_ready(&mut self, node: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ctl(node, &["await_startup"]);
            if answer.is_ok() {
                return;
            }
            if let Some(status) = self.exited(node) {
                panic!("{} ended ({status}); its log:\n{}", name(node), self.tail(node));
            }
            if Instant::now() >= deadline {
                let why = answer.err().unwrap_or_default();
                panic!(
                    "{} not ready within {PATIENCE:?}: {why}; its log:\n{}",
                    name(node),
                    self.tail(node)
                );
            }
        }
    }

    /// Waits until every node serves clients and sees every other, and every queue has a leader and all its replicas,
    /// which have caught up.
    #[track_caller]
    pub fn await_whole(&mut self) {
        for node in self.members.clone() {
            self.await_ready(node);
        }
        await_some("the cluster is whole", PATIENCE, || self.is_whole());
    }

    /// What [`Cluster::await_whole`] waits for, or why it is not so.
    pub fn is_whole(&self) -> Result<(), String> {
        for node in &self.members {
            self.ctl(*node, &["await_startup"])?;
            self.sees_all(*node)?;
        }
        self.replicas_level()
    }

    fn sees_all(&self, node: usize) -> Result<(), String> {
        let status = self.rows(node, &["cluster_status"])?;
        let running = status
            .first()
            .and_then(|row| row["running_nodes"].as_array().map(Vec::len));
        if running != Some(self.members.len()) {
            return Err(format!("{} sees {status:?}", name(node)));
        }
        for row in self.rows(node, &["list_queues", "name", "state", "online", "members"])? {
            if row["state"] != "running" || row["online"] != row["members"] {
                return Err(format!("{} sees {row}", name(node)));
            }
        }
        Ok(())
    }

    fn replicas_level(&self) -> Result<(), String> {
        let asked = self.members[0];
        for row in self.rows(asked, &["list_queues", "name"])? {
            let queue = row["name"].as_str().unwrap_or_default();
            let replicas = self.rows(asked, &["quorum_status", queue])?;
            let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or(0);
            // Traffic goes on meanwhile: a replica that is behind by little is not behind.
            let commit = replicas
                .iter()
                .map(|row| number(row, "Commit Index"))
                .max()
                .unwrap_or(0);
            if let Some(late) = replicas.iter().find(|row| number(row, "Last Applied") + 1000 < commit) {
                return Err(format!("{queue}: a replica at {late}, others at {commit}"));
            }
        }
        Ok(())
    }

    /// The end of a node's log.
    pub fn tail(&self, node: usize) -> String {
        let log = self.log(node);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The end of a test: every node that runs stops in good order, and none has panicked.
    #[track_caller]
    pub fn finish(mut self) {
        for node in 0..SLOTS {
            if self.runs(node) {
                self.signal(node, "TERM");
            }
        }
        for node in 0..SLOTS {
            if self.nodes[node].is_some() {
                let status = self.await_exit(node);
                assert!(
                    status.success(),
                    "{} stopped with {status}:\n{}",
                    name(node),
                    self.tail(node)
                );
            }
        }
        self.assert_no_panic();
        self.finished = true;
    }

    /// No node has panicked so far.
    #[track_caller]
    pub fn assert_no_panic(&self) {
        for node in 0..SLOTS {
            let log = self.log(node);
            if let Some(at) = log.find("panicked at") {
                let rest: String = log[at..].chars().take(600).collect();
                panic!("{} {rest}", name(node));
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            // Both fail only for a process that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.finished && std::env::var_os("WARREN_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.directory);
        } else {
            let _ = writeln!(std::io::stderr(), "logs and data: {}", self.directory.display());
        }
    }
}

/// A node's name in its configuration.
pub fn name(node: usize) -> String {
    format!("warren{}", node + 1)
}

/// Asks until there is an answer, and panics with the last reason why not.
#[track_caller]
pub fn await_some<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if Instant::now() >= deadline => panic!("not within {within:?}: {what}; {why}"),
            Err(_) => pause(),
        }
    }
}

/// Between two looks at a condition that nothing announces.
pub fn pause() {
    std::thread::park_timeout(PAUSE);
}

fn send(pid: u32, signal: &str) -> bool {
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{signal} {pid}"))
        .status();
    status.is_ok_and(|status| status.success())
}

/// A program of ours that takes nothing from this process's environment.
fn own(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("WARREN_") || text.starts_with("RABBITMQ_") {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn binaries() -> PathBuf {
    if let Some(directory) = std::env::var_os("WARREN_BIN") {
        return directory.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    target
        .unwrap_or_else(|| home.join(".cache/warren-target"))
        .join("release")
}

/// The first of enough ports that nothing listens on.
fn free_ports() -> u16 {
    for _ in 0..200 {
        let first = NEXT_PORTS.fetch_add(PORTS_EACH, Ordering::Relaxed);
        let needed = u16::try_from(3 * SLOTS).unwrap_or(PORTS_EACH);
        if (first..first + needed).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no free ports from {FIRST_PORT} up");
}
