//! Disks that fail under a running node: full, broken, or without power.
//!
//! A node's data lies on a file system of its own, which is a file that is mounted: this needs root. A disk breaks by the
//! file system's own emergency stop, after which everything fails and nothing more is written: what was not synced by then
//! is gone, as after a power cut. A sync fails alone where strace has the kernel answer so.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use warren_tests::client::{Event, Session, Tags};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, name};

use crate::load::Load;

const QUEUE: &str = "disks";
const SIZE_MIB: u64 = 400;
/// The exit status of a node whose store failed.
const STORE_FAILED: i32 = 74;
/// Confirms that each publisher must get in each state of the cluster.
const PROGRESS: u64 = 100;

/// One node's disk.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {told}", output.status);
}

impl Disk {
    /// A new one for a node that has not started yet.
    fn new(cluster: &Cluster, node: usize) -> Self {
        let disk = Self {
            image: cluster.path(node).join("disk"),
            mounted: cluster.data(node),
        };
        let image = File::create(&disk.image).expect("the node's directory can be written");
        image.set_len(SIZE_MIB << 20).expect("the file may be long");
        run(Command::new("mkfs.ext4").arg("-q").arg(&disk.image));
        fs::create_dir_all(&disk.mounted).expect("the node's directory can be written");
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.mounted));
    }

    fn remount(&self, option: &str) {
        run(Command::new("mount")
            .args(["-o", &format!("remount,{option}")])
            .arg(&self.mounted));
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }

    /// Takes all space but some MiB.
    fn fill(&self, left_mib: u64) {
        let output = Command::new("df")
            .args(["--output=avail", "-B1M"])
            .arg(&self.mounted)
            .output()
            .expect("df is there");
        let free = String::from_utf8_lossy(&output.stdout);
        let free: u64 = free
            .lines()
            .nth(1)
            .and_then(|line| line.trim().parse().ok())
            .expect("df tells a number");
        let taken = free.saturating_sub(left_mib);
        run(Command::new("fallocate")
            .arg("-l")
            .arg(format!("{taken}M"))
            .arg(self.filler()));
    }

    fn give_back(&self) {
        fs::remove_file(self.filler()).expect("the filler is there");
    }

    /// From now on everything fails, and what was not synced is gone.
    fn shut_down(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
        let call = "import fcntl, os, struct, sys\n\
                    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run(Command::new("python3").args(["-c", call]).arg(&self.mounted));
    }

    /// Working again, with what it held when it stopped.
    fn replug(&self) {
        run(Command::new("umount").arg(&self.mounted));
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The node may still run.
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}

/// A cluster of which `nodes` have disks of their own.
fn cluster(nodes: &[usize], options: &[(&str, &str)]) -> (Cluster, Vec<Disk>) {
    let mut cluster = Cluster::prepare(options);
    let disks = nodes.iter().map(|node| Disk::new(&cluster, *node)).collect();
    for node in 0..NODES {
        cluster.spawn(node);
    }
    cluster.await_whole();
    let mut session = Session::open(&cluster.address(nodes[0]), PATIENCE).expect("a whole cluster serves");
    session
        .declare(QUEUE, "quorum", PATIENCE)
        .expect("a whole cluster declares");
    session.close(PATIENCE).expect("a whole cluster serves");
    (cluster, disks)
}

#[track_caller]
fn finish(what: &str, cluster: Cluster, load: Load, disks: Vec<Disk>) {
    load.conclude(what, &cluster, &[QUEUE]);
    cluster.assert_no_panic();
    drop(disks);
    cluster.finish();
}

/// More than the store has set space aside for on each node.
fn write_much(cluster: &Cluster) {
    let mut session = Session::open(&cluster.address(1), PATIENCE).expect("a majority serves");
    session
        .declare("bulk", "quorum", PATIENCE)
        .expect("a majority declares");
    session.confirm(PATIENCE).expect("a channel takes confirm.select");
    let body = vec![0; 1 << 20];
    for _ in 0..64 {
        session.publish("bulk", &body).expect("a majority serves");
        let event = session.next(PATIENCE).expect("a majority serves");
        assert!(matches!(event, Some(Event::Confirmed(_))), "{event:?}");
    }
    session.close(PATIENCE).expect("a majority serves");
}

/// A node's disk fails under load; the rest goes on, and the node is whole again once its disk is.
#[track_caller]
fn one_fails<T>(
    what: &str,
    options: &[(&str, &str)],
    says: &str,
    fail: impl Fn(&mut Cluster, &Disk) -> T,
    mend: impl Fn(T, &Disk),
) {
    // Where the queue's leader is: clients are there too.
    let (mut cluster, disks) = cluster(&[0], options);
    cluster.lead(1, QUEUE, 0);
    let load = Load::start(&cluster, &[QUEUE], 3);
    load.await_confirms(PROGRESS, PATIENCE);
    let failure = fail(&mut cluster, &disks[0]);
    write_much(&cluster);
    let status = cluster.await_exit(0);
    let log = cluster.log(0);
    assert_eq!(status.code(), Some(STORE_FAILED), "{what}: {log}");
    assert!(log.contains(says), "{what}: {} does not say {says:?}: {log}", name(0));
    load.await_confirms(PROGRESS, PATIENCE);
    mend(failure, &disks[0]);
    cluster.start_node(0);
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.await_whole();
    finish(what, cluster, load, disks);
}

#[test]
fn a_disk_without_any_space_stops_its_node() {
    let unwatched = [("WARREN_LIMITS_DISK_FREE_LIMIT", "0")];
    one_fails(
        "no space",
        &unwatched,
        "No space left on device",
        |_, disk| disk.fill(0),
        |(), disk| disk.give_back(),
    );
}

#[test]
fn a_disk_that_breaks_stops_its_node() {
    one_fails(
        "broken",
        &[],
        "the node stops: its store failed",
        |_, disk| disk.shut_down(),
        |(), disk| disk.replug(),
    );
}

/// From now on every sync of that process fails, and everything else goes well.
fn fail_syncs(pid: u32) -> Child {
    Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
        .args(["-e", "inject=fsync,fdatasync:error=EIO", "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .expect("strace is there")
}

#[test]
fn a_sync_that_fails_stops_its_node() {
    one_fails(
        "failing sync",
        &[],
        "the node stops: its store failed",
        |cluster, _| fail_syncs(cluster.pid(0)),
        |mut strace, _| {
            // It ends with the process that it holds.
            strace.wait().expect("a child can be waited for");
        },
    );
}

#[test]
fn a_disk_that_cannot_be_written_is_refused_by_name() {
    let (mut cluster, disks) = cluster(&[2], &[]);
    assert!(cluster.stop(2).success());
    disks[0].remount("ro");
    let failed = cluster.refused(2, &[]);
    let data = cluster.data(2);
    println!("{}: {}", failed.status, failed.log.lines().last().unwrap_or_default());
    for part in ["Read-only file system", &data.display().to_string()] {
        assert!(failed.log.contains(part), "nothing of {part:?} in: {}", failed.log);
    }
    assert!(!failed.log.contains("panicked at"), "{}", failed.log);
    disks[0].remount("rw");
    cluster.start_node(2);
    cluster.await_whole();
    drop(disks);
    cluster.finish();
}

#[test]
fn a_disk_that_gets_full_holds_publishers_back_until_there_is_space() {
    let (cluster, disks) = cluster(&[2], &[]);
    let mut session = Session::open(&cluster.address(0), PATIENCE).expect("a whole cluster serves");
    session.confirm(PATIENCE).expect("a channel takes confirm.select");
    disks[0].fill(20);
    let next = |session: &mut Session| {
        let event = session.next(PATIENCE).expect("the session goes on");
        event.expect("something is said in time")
    };
    loop {
        session.publish(QUEUE, b"message").expect("the session goes on");
        match next(&mut session) {
            Event::Confirmed(_) => {}
            Event::Blocked(reason) => {
                assert_eq!(reason, "low on disk");
                break;
            }
            other => panic!("to a publisher: {other:?}"),
        }
    }
    let last = session.published();
    let confirmed = |tag| Event::Confirmed(Tags { tag, multiple: false });
    assert_eq!(next(&mut session), confirmed(last));
    session.publish(QUEUE, b"held back").expect("the socket has room");
    disks[0].give_back();
    assert_eq!(next(&mut session), Event::Unblocked);
    assert_eq!(next(&mut session), confirmed(last + 1));
    session.close(PATIENCE).expect("a whole cluster serves");
    drop(disks);
    cluster.finish();
}

#[test]
fn the_whole_cluster_loses_its_power() {
    let (mut cluster, disks) = cluster(&[0, 1, 2], &[]);
    let load = Load::start(&cluster, &[QUEUE], 3);
    for _ in 0..3 {
        load.await_confirms(PROGRESS, PATIENCE);
        for disk in &disks {
            disk.shut_down();
        }
        for node in 0..NODES {
            // Some have seen it.
            if cluster.runs(node) {
                cluster.kill(node);
            }
        }
        for disk in &disks {
            disk.replug();
        }
        for node in 0..NODES {
            cluster.spawn(node);
        }
        cluster.await_whole();
    }
    load.await_confirms(PROGRESS, PATIENCE);
    finish("power cut", cluster, load, disks);
}
