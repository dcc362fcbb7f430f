//! Connections by cgroup, and what the path of a cgroup says about it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Counts, Snapshot};

/// What a cgroup is called. All but the path is taken from the path, as far as it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupName {
    /// Its path below the root of the cgroup2 hierarchy; none if it was removed before it was read.
    pub path: Option<String>,
    /// The innermost systemd unit that is no slice.
    pub unit: Option<String>,
    /// The innermost systemd slice.
    pub slice: Option<String>,
    /// Id of the container, of Docker, containerd, CRI-O or Podman.
    pub container: Option<String>,
    /// `NAMESPACE/NAME` of the Kubernetes pod, or its UID where that is not known.
    pub pod: Option<String>,
    /// UID of the pod.
    pub pod_uid: Option<String>,
}

/// The connections of one cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupCounts {
    /// Inode number of its directory, which the kernel never gives again.
    pub id: u64,
    /// What it is called.
    #[serde(flatten)]
    pub name: CgroupName,
    /// Both families.
    pub states: Counts,
}

/// Connections by cgroup, of one namespace or of several together. At rest the rows, `other` and
/// `unattributed` add up to their totals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    /// Maximum number of cgroups counted individually.
    pub limit: u32,
    /// Each cgroup that has sockets, in the order of ids.
    pub tracked: Vec<CgroupCounts>,
    /// Cgroups beyond the limit, together. None where all fit.
    pub other: Option<Counts>,
    /// Sockets that have no cgroup: timewait minisockets, and half-open connections of closed listeners.
    /// All sockets of a namespace that is not counted by cgroup.
    pub unattributed: Counts,
}

impl Cgroups {
    /// Those of several namespaces together.
    ///
    /// # Errors
    /// Why no reading has any.
    pub fn merge(snapshots: &[Snapshot]) -> Result<Self, &str> {
        let mut merged: Option<Self> = None;
        let mut rows = BTreeMap::<u64, CgroupCounts>::new();
        let mut uncounted = Counts::default();
        for snapshot in snapshots {
            let Some(found) = &snapshot.cgroups else {
                uncounted += &snapshot.states;
                continue;
            };
            let merged = merged.get_or_insert_default();
            merged.limit = merged.limit.max(found.limit);
            merged.unattributed += &found.unattributed;
            if let Some(other) = &found.other {
                *merged.other.get_or_insert_default() += other;
            }
            for one in &found.tracked {
                let row = rows.entry(one.id).or_insert_with(|| CgroupCounts {
                    states: Counts::default(),
                    ..one.clone()
                });
                row.states += &one.states;
            }
        }
        let mut reasons = snapshots
            .iter()
            .filter_map(|one| one.cgroups_reason.as_deref());
        let mut merged = merged.ok_or_else(|| {
            reasons
                .next()
                .unwrap_or("the tracker does not say why; restart it")
        })?;
        merged.unattributed += &uncounted;
        merged.tracked = rows.into_values().collect();
        Ok(merged)
    }

    /// Inode numbers of the namespaces in which each cgroup has sockets.
    #[must_use]
    pub fn namespaces(snapshots: &[Snapshot]) -> BTreeMap<u64, Vec<u32>> {
        let mut namespaces = BTreeMap::<u64, Vec<u32>>::new();
        for one in snapshots {
            for row in one.cgroups.iter().flat_map(|found| &found.tracked) {
                namespaces.entry(row.id).or_default().push(one.netns);
            }
        }
        namespaces
    }
}

/// Suffixes of units that contain processes and are no slices.
const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// What container runtimes put before the id of a container.
const RUNTIMES: [&str; 6] = [
    "docker-",
    "cri-containerd-",
    "nerdctl-",
    "crio-",
    "libpod-",
    "cri-dockerd-",
];

impl CgroupName {
    /// Of a path, as in `/system.slice/nginx.service`.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let innermost = |is: &dyn Fn(&str) -> bool| {
            let mut parts = path.rsplit('/');
            parts.find(|part| is(part)).map(str::to_owned)
        };
        let pod_uid = path.rsplit('/').find_map(pod_uid);
        Self {
            path: Some(path.to_owned()),
            unit: innermost(&|part| UNITS.iter().any(|suffix| part.ends_with(suffix))),
            slice: innermost(&|part| part.ends_with(".slice")),
            container: path.rsplit('/').find_map(container_id).map(str::to_owned),
            pod: pod_uid.clone(),
            pod_uid,
        }
    }

    /// Whether somebody may call it so: by its unit, or by its path or that of one that contains it.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        if !name.starts_with('/') {
            return self.unit.as_deref() == Some(name);
        }
        let name = name.trim_end_matches('/');
        let below = self
            .path
            .as_deref()
            .and_then(|path| path.strip_prefix(name));
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The shortest name that says most: pod, unit, container, path.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        let candidates = [&self.pod, &self.unit, &self.container, &self.path];
        candidates.into_iter().find_map(Option::as_deref)
    }
}

/// The id of the container that a directory is of: 64 hexadecimal digits.
fn container_id(part: &str) -> Option<&str> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let id = RUNTIMES
        .iter()
        .find_map(|runtime| name.strip_prefix(runtime))
        .unwrap_or(name);
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The UID of the pod that a directory is of, as in `kubepods-burstable-podUID.slice` or `podUID`.
fn pod_uid(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match name.rsplit_once("-pod") {
        Some((before, uid)) if before.starts_with("kubepods") => uid,
        _ => name.strip_prefix("pod")?,
    };
    let is_uid = |uid: &str| {
        // That of a static pod is a hash without dashes.
        matches!(uid.len(), 32 | 36)
            && uid
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    };
    let uid = uid.replace('_', "-");
    is_uid(&uid).then_some(uid)
}

#[cfg(test)]
mod tests {
    use tcp_status_common::state::State;

    use super::{CgroupCounts, CgroupName, Cgroups, Counts};
    use crate::snapshot::{Snapshot, Tier};

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "2dd25b02-8d1b-4a36-9b8c-5c1e2f3a4b5c";

    fn named(path: &str) -> (Option<String>, Option<String>, Option<String>) {
        let name = CgroupName::of(path);
        (name.unit, name.container, name.pod)
    }

    #[test]
    fn units_are_the_innermost() {
        let unit = |path| CgroupName::of(path).unit;
        assert_eq!(
            unit("/system.slice/nginx.service").as_deref(),
            Some("nginx.service")
        );
        assert_eq!(unit("/init.scope").as_deref(), Some("init.scope"));
        assert_eq!(
            unit("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service").as_deref(),
            Some("web.service")
        );
        // A delegated one, whose processes are below it.
        let payload = CgroupName::of("/system.slice/a.service/payload");
        assert_eq!(payload.unit.as_deref(), Some("a.service"));
        assert_eq!(payload.slice.as_deref(), Some("system.slice"));
        assert_eq!((unit("/"), unit("/system.slice")), (None, None));
    }

    #[test]
    fn containers_of_every_runtime_are_known() {
        let uid = UID.replace('-', "_");
        for (path, pod) in [
            (format!("/system.slice/docker-{ID}.scope"), false),
            (format!("/docker/{ID}"), false),
            (format!("/machine.slice/libpod-{ID}.scope"), false),
            (format!("/libpod_parent/libpod-{ID}"), false),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/\
                     cri-containerd-{ID}.scope"
                ),
                true,
            ),
            (
                format!("/kubepods.slice/kubepods-pod{uid}.slice/crio-{ID}.scope"),
                true,
            ),
            (format!("/kubepods/besteffort/pod{UID}/{ID}"), true),
            (
                format!("/kubelet.slice/kubelet/kubepods-pod{uid}.slice/{ID}/child"),
                true,
            ),
        ] {
            let (_, container, uid) = named(&path);
            assert_eq!(container.as_deref(), Some(ID), "{path}");
            assert_eq!(uid.as_deref(), pod.then_some(UID), "{path}");
        }
        for path in [
            "/system.slice/docker.service",
            "/system.slice/docker-abc.scope",
            "/podman",
            "/pod1",
            "/system.slice/crio-conmon-0123.scope",
        ] {
            let (_, container, pod) = named(path);
            assert_eq!((container, pod), (None, None), "{path}");
        }
    }

    #[test]
    fn a_cgroup_is_named_by_its_unit_or_what_contains_it() {
        let name = CgroupName::of("/system.slice/nginx.service/worker");
        for good in [
            "nginx.service",
            "/system.slice",
            "/system.slice/nginx.service",
            "/system.slice/nginx.service/worker/",
            "/",
        ] {
            assert!(name.is_named(good), "{good}");
        }
        for bad in ["nginx", "/system", "/system.slice/nginx", "worker", ""] {
            assert!(!name.is_named(bad), "{bad}");
        }
        assert!(!CgroupName::default().is_named("/"));
    }

    fn established(count: u64) -> Counts {
        let mut counts = Counts::default();
        counts[State::Established] = count;
        counts
    }

    /// A namespace with so many sockets, of which so many are of each cgroup, of others, and of none.
    fn namespace(total: u64, rows: &[(u64, u64)], other: Option<u64>, none: u64) -> Snapshot {
        let row = |&(id, count): &(u64, u64)| CgroupCounts {
            id,
            name: CgroupName::of(&format!("/{id}.service")),
            states: established(count),
        };
        Snapshot {
            cgroups: Some(Cgroups {
                limit: 16,
                tracked: rows.iter().map(row).collect(),
                other: other.map(established),
                unattributed: established(none),
            }),
            ..Snapshot::of(Tier::Full, 1, [established(total), Counts::default()])
        }
    }

    #[test]
    fn cgroups_of_several_namespaces_add_up_to_the_totals_of_all() {
        let mut uncounted = namespace(100, &[], None, 0);
        uncounted.cgroups = None;
        uncounted.cgroups_reason = Some("not here".into());
        let all = [
            namespace(12, &[(7, 4), (9, 5)], None, 3),
            uncounted.clone(),
            namespace(26, &[(2, 6), (9, 7)], Some(13), 0),
        ];
        let merged = Cgroups::merge(&all).unwrap();
        let rows = merged.tracked.iter();
        let rows: Vec<_> = rows
            .map(|one| (one.id, one.name.unit.as_deref(), one.states))
            .collect();
        assert_eq!(
            rows,
            [
                (2, Some("2.service"), established(6)),
                (7, Some("7.service"), established(4)),
                (9, Some("9.service"), established(12)),
            ]
        );
        assert_eq!((merged.limit, merged.other), (16, Some(established(13))));
        assert_eq!(merged.unattributed, established(103));
        let one = &all[..1];
        assert_eq!(
            Cgroups::merge(one).ok(),
            one[0].cgroups,
            "one stays as it is"
        );
        assert_eq!(Cgroups::merge(&[uncounted]), Err("not here"));
        assert!(Cgroups::merge(&[]).is_err());
    }
}
