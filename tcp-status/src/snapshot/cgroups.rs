//! Connections by cgroup, and what the path of a cgroup says about it.

use serde::{Deserialize, Serialize};

use super::Counts;

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

/// Connections by cgroup. At rest the rows, `other` and `unattributed` add up to the totals of the
/// namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    /// Maximum number of cgroups counted individually.
    pub limit: u32,
    /// Each cgroup that has sockets, in the order of ids.
    pub tracked: Vec<CgroupCounts>,
    /// Cgroups beyond the limit, together. None where all fit.
    pub other: Option<Counts>,
    /// Sockets that have no cgroup: timewait minisockets, and half-open connections of closed listeners.
    pub unattributed: Counts,
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
    use super::CgroupName;

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
}
