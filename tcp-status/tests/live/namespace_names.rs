//! The names of other namespaces, by the containers and pods of processes in them.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use tcp_status_testkit::{
    cgroup::{Cgroup, Traffic},
    netns::Netns,
    raise_fd_limit, skip, skip_unprepared, soon,
};

use crate::{
    battery::successor,
    namespaces::{all, assert_exact, listen, of, start},
    subject::{Subject, place, turn},
};

const POD_LOGS: &str = "/var/log/pods";

/// As kubelet makes it for a pod.
struct PodLogs(PathBuf);

impl PodLogs {
    fn new(folder: &str) -> Self {
        let path = PathBuf::from(POD_LOGS).join(folder);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for PodLogs {
    fn drop(&mut self) {
        // Its parents stay where they are not empty.
        for folder in self.0.ancestors().take(2) {
            drop(fs::remove_dir(folder));
        }
    }
}

/// Random, in hexadecimal digits.
fn digits() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A cgroup of exactly this name, or a reason to skip.
fn cgroup(above: Option<&Cgroup>, name: &str) -> Option<Cgroup> {
    Cgroup::named(above, name)
        .map_err(|error| skip_unprepared(&error.to_string()))
        .ok()
}

/// A process with a few sockets in a namespace and a cgroup.
fn inhabit(netns: &Netns, cgroup: &Cgroup) -> Traffic {
    let mut traffic = netns.run(|| cgroup.spawn(&["hold", "1", "9"])).unwrap();
    traffic.hold();
    traffic
}

fn wait_for_name(subject: &Subject, netns: &Netns, name: &str) {
    let started = Instant::now();
    loop {
        let found = of(subject, netns).and_then(|found| found.netns_name);
        if found.as_deref() == Some(name) {
            return;
        }
        assert!(started.elapsed() < 10 * soon(), "{found:?}, not {name}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_namespace_has_the_name_of_its_pod() {
    let (Some(own), Some(elsewhere)) = (place(), place()) else {
        return;
    };
    let (digits, id) = (digits(), digits().repeat(2));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    let slice = format!("kubepods-burstable-pod{}.slice", parts.join("_"));
    let Some(slice) = cgroup(None, &slice) else {
        return;
    };
    let container = cgroup(Some(&slice), &format!("cri-containerd-{id}.scope")).unwrap();
    raise_fd_limit().unwrap();
    let logs = PodLogs::new(&format!("shop_web-0_{}", parts.join("-")));
    own.run(|| {
        let subject = start();
        let traffic = inhabit(&elsewhere, &container);
        wait_for_name(&subject, &elsewhere, "shop/web-0");
        traffic.end();
    })
    .unwrap();
    drop(logs);
}

/// The kernel gives the number of a namespace that is gone to the next one, which is in no container.
#[test]
fn a_number_that_is_given_again_has_no_name_of_the_one_before() {
    const TRIES: usize = 10;
    const POLLED: Duration = Duration::from_secs(2);
    let (Some(own), Some(_)) = (place(), place()) else {
        return;
    };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let again = own.run(|| {
        let subject = start();
        (0..TRIES).any(|_| {
            let id = digits().repeat(2);
            let Some(container) = cgroup(None, &format!("docker-{id}.scope")) else {
                return true;
            };
            let old = place().unwrap();
            let traffic = inhabit(&old, &container);
            wait_for_name(&subject, &old, &id[..12]);
            traffic.end();
            let inode = old.inode();
            drop(old);
            let Some(new) = successor(inode) else {
                return false;
            };
            let _held = new.run(|| listen(8080, 1)).unwrap();
            let (came, mut polls) = (Instant::now(), 0);
            while came.elapsed() < POLLED {
                for found in all(&subject) {
                    if u64::from(found.netns) == inode {
                        assert_eq!(found.netns_name, None, "after {:?}", came.elapsed());
                        polls += 1;
                    }
                }
                thread::sleep(Duration::from_millis(10));
            }
            assert!(polls > 0, "it is not there");
            println!("{polls} readings without a name");
            assert_exact(&subject, &new);
            true
        })
    });
    if !again.unwrap() {
        skip("the number of a namespace did not come again in 10 tries");
    }
}
