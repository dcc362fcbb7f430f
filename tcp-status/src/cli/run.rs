//! `run`: from options to a tracker that answers, until a signal ends it.

use std::{
    fs,
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::sys::resource::{Resource, getrlimit};
use sd_notify::NotifyState;
use tokio::{
    runtime::{Builder, Runtime},
    select,
    sync::watch,
    task::spawn_blocking,
    try_join,
};

use super::{
    args::{CompatOption, NamespaceOption, RunOptions},
    client_commands::Client,
    panic::{Socket, end_on_panic},
    passive,
    push::push,
    signals::Signals,
    systemd::{self, notify},
};
use crate::{
    bpf::MapLimits,
    kernel::plan::Backend,
    privilege,
    serve::{
        Limits, Source, http,
        protocol::{ApiError, Show},
        unix::Server,
    },
    track::{self, Pace, Running, Settings},
    view::{print, table},
};

/// How long threads that are still at work may take at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(250);

/// With fewer file descriptors the runtime panics, or has none for the first client.
const MIN_OPEN_FILES: u64 = 16;

/// With a smaller address space, threads cannot be started.
const MIN_ADDRESS_SPACE: u64 = 32 << 20;

/// File descriptors that audits, answers and a client take at the same time.
const SPARE_FILES: u64 = 8;

pub(super) fn run(options: &RunOptions) -> anyhow::Result<()> {
    let settings = settings(options);
    let backend = options.backend.into();
    if settings.all_namespaces && backend == Backend::Scan {
        let why = "cannot count --netns all: a scan counts one namespace; leave out --backend scan";
        return Err(ApiError::bad_argument(why.into()).into());
    }
    serve(options, move || Ok(track::start(backend, settings)?))
}

fn settings(options: &RunOptions) -> Settings {
    Settings {
        pace: Pace {
            interval: options.audit_interval,
            share: options.audit_share / 100.0,
        },
        split_interval: options.split_interval,
        sample_interval: options.sample_interval,
        all_namespaces: options.netns == NamespaceOption::All,
        limits: MapLimits {
            ports: options.max_ports,
            namespaces: options.max_namespaces,
            cgroups: options.max_cgroups,
        },
        attach_later: true,
        accept_latency: options.accept_latency,
    }
}

/// Serves what `start` gives.
fn serve(
    options: &RunOptions,
    start: impl FnOnce() -> anyhow::Result<Running> + Send + 'static,
) -> anyhow::Result<()> {
    let default = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(default)
        .format_target(false)
        .init();
    let socket = Socket::default();
    end_on_panic(Arc::clone(&socket));
    let files = open_files();
    ensure!(
        files >= MIN_OPEN_FILES,
        "cannot start: RLIMIT_NOFILE is {files}; raise it to 1024 (ulimit -n, LimitNOFILE=)"
    );
    let addresses = resource_limit(Resource::RLIMIT_AS);
    ensure!(
        addresses >= MIN_ADDRESS_SPACE,
        "cannot start: RLIMIT_AS is {} MiB, too small for threads; raise it to 256 MiB \
         (ulimit -v, LimitAS=)",
        addresses >> 20
    );
    // Before there is a second thread.
    if let Err(error) = privilege::set_no_new_privs() {
        log::warn!(error:%; "privileges not dropped");
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(serve_until_signal(options, &socket, start));
    end(runtime);
    served
}

/// How many file descriptors this process may have.
fn open_files() -> u64 {
    resource_limit(Resource::RLIMIT_NOFILE)
}

/// A limit of this process; none, if the kernel does not say.
fn resource_limit(resource: Resource) -> u64 {
    getrlimit(resource).map_or(u64::MAX, |(limit, _)| limit)
}

/// Whether there are any left once it runs. Nothing else tells how many programs and maps take.
fn check_spare_files() -> anyhow::Result<()> {
    let files = open_files();
    let open = match fs::read_dir("/proc/self/fd") {
        // But for the one that reads this.
        Ok(open) => open.count().saturating_sub(1).try_into()?,
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => files,
        // Without procfs it is not known, and no reason to end.
        Err(_) => return Ok(()),
    };
    ensure!(
        open + SPARE_FILES <= files,
        "cannot start: {open} of {files} file descriptors in use after start-up; raise the limit to \
         1024 (ulimit -n, LimitNOFILE=)"
    );
    Ok(())
}

/// A start or an answer that is under way does not hold up the end: the kernel clears away what
/// belongs to the process.
fn end(runtime: Runtime) {
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
}

async fn serve_until_signal(
    options: &RunOptions,
    socket: &Socket,
    start: impl FnOnce() -> anyhow::Result<Running> + Send + 'static,
) -> anyhow::Result<()> {
    // First of all: from here on, a signal leaves no socket behind.
    let mut signals = Signals::new().context("cannot handle signals")?;
    let path = &options.socket.socket;
    let group = options.socket_group.as_deref();
    // Before the start: what cannot be served need not be counted. Clients wait meanwhile.
    let server = Server::bind(path, group, options.socket_mode, Limits::default())?;
    socket.get_or_init(|| server.socket_file().clone());
    let metrics = options
        .metrics
        .map(|address| http::Server::bind(address, page(options)));
    let metrics = metrics.transpose()?;
    let zabbix = passive::bind(options)?;
    let running = select! {
        biased;
        name = signals.any() => {
            log::info!(signal = name; "stopped during start-up");
            return Ok(());
        }
        running = spawn_blocking(|| drop_capabilities_after(start)) => {
            running.context("cannot start the tracker")??
        }
    };
    check_spare_files()?;
    privilege::drop_unneeded_capabilities();
    if let Some(metrics) = &metrics {
        log::info!(address:% = metrics.address(); "serving metrics");
    }
    announce(&running.source, options).await;
    let (stop, stopped) = watch::channel(());
    let stopping = async {
        let name = signals.any().await;
        log::info!(signal = name; "stopping");
        notify(&[NotifyState::Stopping]);
        drop(stop);
        Ok(())
    };
    let serving = async {
        try_join!(
            stopping,
            async {
                Ok(server
                    .run(Arc::clone(&running.source), dropped(stopped.clone()))
                    .await?)
            },
            serve_metrics(metrics, &running.source, dropped(stopped.clone())),
            passive::serve(zabbix, &running.source, dropped(stopped.clone())),
            push(&options.push, &running.source, dropped(stopped.clone())),
        )
    };
    select! {
        served = serving => served.map(|_| ()),
        never = systemd::feed(Arc::clone(&running.source)) => match never {},
    }
}

/// For the thread that loads the programs, which later answers queries.
fn drop_capabilities_after<T>(start: impl FnOnce() -> T) -> T {
    let started = start();
    privilege::drop_unneeded_capabilities();
    started
}

async fn serve_metrics(
    server: Option<http::Server>,
    source: &Arc<dyn Source>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let Some(server) = server else {
        return Ok(());
    };
    let address = server.address();
    let served = server.run(Arc::clone(source), shutdown).await;
    served.with_context(|| format!("cannot listen on --metrics {address}"))
}

fn page(options: &RunOptions) -> http::Options {
    http::Options {
        hosts: options.metrics_host.clone(),
        label_netns: options.netns == NamespaceOption::All,
        max_namespaces: options.metrics_namespaces,
        max_ports: options.metrics_ports,
        max_cgroups: options.metrics_cgroups,
        node_names: options.metrics_compat == Some(CompatOption::Node),
        ..http::Options::default()
    }
}

/// Completes when the other end is dropped.
async fn dropped(mut channel: watch::Receiver<()>) {
    while channel.changed().await.is_ok() {}
}

/// Tells the log, the service manager and, on a terminal, the user.
async fn announce(source: &Arc<dyn Source>, options: &RunOptions) {
    let path = &options.socket.socket;
    let source = Arc::clone(source);
    let first = spawn_blocking(move || source.show(&Show::default())).await;
    let tier = match first {
        Ok(Ok(snapshots)) => snapshots.into_iter().next().map(|snapshot| {
            if io::stdout().is_terminal()
                && let Err(error) = print(&greeting(
                    &table::render(&snapshot, &table::Details::default()),
                    &Client::find(path, options.socket_group.is_some()),
                ))
            {
                log::warn!(error:%; "cannot write to the terminal");
            }
            snapshot.tier.name()
        }),
        Ok(Err(refusal)) => {
            log::warn!(error:% = refusal; "first query failed");
            None
        }
        Err(error) => {
            log::warn!(error:%; "first query failed");
            None
        }
    };
    log::info!(tier = tier.unwrap_or("unknown"), socket:% = path.display(); "ready");
    notify(&[NotifyState::Ready]);
}

/// What is there, and how to query it.
fn greeting(table: &str, client: &Client) -> String {
    format!(
        "{table}\nFrom another terminal:\n{}Ctrl-C ends it.\n",
        client.commands()
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Client, greeting};

    #[test]
    fn the_greeting_ends_with_commands() {
        let client = Client::find(Path::new("/tmp/s"), true);
        let text = greeting("TABLE\n", &client);
        assert!(text.starts_with("TABLE\n\nFrom another"), "{text}");
        assert!(text.contains("tcp-status get established\n"), "{text}");
    }
}
