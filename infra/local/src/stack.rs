//! Starts the parts in their order and ends them together.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use comms_functions::SourceQueue;
use comms_testkit::aws::{LocalAws, Resources};
use comms_testkit::host_guard::{CrossOrigin, HostGuard};
use comms_testkit::runtime_api::RuntimeApi;
use comms_testkit::tls::TestCa;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::api_client::ApiClient;
use crate::console::{Progress, say, warn};
use crate::deliveries::Deliveries;
use crate::event_source::EventSource;
use crate::function_logs::FunctionLogs;
use crate::inbox::Inbox;
use crate::poller::{Poller, VISIBILITY_TIMEOUT};
use crate::processes::{Processes, announce, this_program};
use crate::token::DeveloperKey;
use crate::{
    AnyError, StackArgs, api_reference, cors, dead_letters, demo, gateway, home, inbox,
    request_lines, sealed, web,
};

/// How often expired deliveries are deleted.
const SWEEP_INTERVAL: Duration = Duration::from_mins(10);

/// Runs the stack until Ctrl-C or SIGTERM.
pub(crate) fn run(args: StackArgs) -> Result<(), AnyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve(args));
    // Ends every task, and with them the functions' processes.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

fn announce_queues(progress: &Progress) {
    progress.step(
        "Queues",
        format_args!(
            "{} batches at once, and {} of urgent messages; a failed message is redelivered within {VISIBILITY_TIMEOUT} s, or \
             when the worker says",
            EventSource::of(SourceQueue::Normal).batches,
            EventSource::of(SourceQueue::Urgent).batches
        ),
    );
}

async fn serve(args: StackArgs) -> Result<(), AnyError> {
    let progress = Progress::new();
    // Installed first: a signal during the start must not leave processes behind.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    // All ports before anything else: a taken one is the likeliest thing to go wrong.
    let http = listen("--http", args.http).await?;
    let aws = listen("--aws", args.aws).await?;
    let smtp = listen("--smtp", args.smtp).await?;
    let web = listen("--inbox", args.inbox).await?;
    let (http_address, aws_address, smtp_address, web_address) = (
        http.local_addr()?,
        aws.local_addr()?,
        smtp.local_addr()?,
        web.local_addr()?,
    );
    let key = DeveloperKey::of_user()?;

    let aws = LocalAws::start_on(aws, args.data.as_deref(), &args.allow_hosts).await?;
    let resources = aws.resources();
    let kept = args.data.as_ref().map_or_else(
        || "in memory".to_owned(),
        |dir| format!("kept in {}", dir.display()),
    );
    progress.step("AWS", format_args!("{} ({kept})", aws.endpoint()));
    say_resources(resources);
    warn_of_exposure(
        aws_address,
        "reads and changes all of it: no key is asked for",
    );

    if let Some(advice) = sealed::advice(&aws).await? {
        warn(advice);
    }

    let ca = TestCa::new();
    let password = key.password("inbox")?;
    let inbox = Inbox::default();
    let _smtp = inbox.serve_smtp(smtp, &ca, &password).await?;
    let client = ApiClient::new(format!("http://{http_address}"), key.clone())?;
    let deliveries = Deliveries::new(aws.clone(), client.clone());
    deliveries.follow().await?;
    let pages = home::routes(client)
        .merge(inbox.routes())
        .merge(deliveries.routes());
    let guard = |address| HostGuard::new(address, CrossOrigin::Read, &args.allow_hosts);
    spawn_http("inbox", web, web::guarded(pages, guard(web_address)));
    progress.step(
        "Pages",
        format_args!("http://{web_address} (inbox, deliveries, queues, providers, settings)"),
    );
    progress.step("SMTP", format_args!("smtp://{smtp_address} with STARTTLS"));
    say(format_args!(
        "           user   {}  password {password}",
        inbox::USER
    ));
    warn_of_exposure(smtp_address, "can send to the inbox with the password");

    let roots = trust_roots(&ca)?;
    let mut environment = environment(&aws, &roots, smtp_address.ip());
    environment.push((
        "REQUIRE_CLINIC".into(),
        args.require_clinic.to_string().into(),
    ));
    let api = RuntimeApi::start_on(TcpListener::bind(("127.0.0.1", 0)).await?)?;
    let logs = FunctionLogs::new(args.logs.as_ref(), std::env::var("LOG_LEVEL").ok())?;
    let processes = Processes::new(api, this_program()?, environment, args.cold, logs);
    spawn_http(
        "gateway",
        http,
        guard(http_address)
            .allowing_pages(&args.cors_origins)
            .protect(cors::layer(http_api(&processes, &key), &args.cors_origins)),
    );
    progress.step(
        "API",
        format_args!("http://{http_address}/api/v1 (reference: http://{http_address}/docs)"),
    );
    announce(args.cold);

    for poller in Poller::all(&aws, &processes) {
        poller.set_visibility_timeout().await?;
        tokio::spawn(poller.run());
    }
    tokio::spawn(dead_letters::watch(aws.clone(), inbox));
    announce_queues(&progress);
    tokio::spawn(sweep(aws.clone()));

    if !args.no_demo {
        let demo = demo::Demo {
            api: format!("http://{http_address}"),
            pages: format!("http://{web_address}"),
            smtp: smtp_address,
            password,
            ca_pem: ca.pem(),
            key,
            deliveries,
        };
        tokio::spawn(demo.run());
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    say("stopping");
    Ok(())
}

/// Where everything of the local AWS is.
fn say_resources(resources: &Resources) {
    say(format_args!(
        "           tables {}, {}\n           key    {}\n           queue  {}\n           urgent {}\n           dead   {}",
        resources.settings_table,
        resources.deliveries_table,
        resources.kms_key_id,
        resources.queue_url,
        resources.urgent_queue_url,
        resources.dlq_url
    ));
}

/// Warns if a listener is not on loopback: others can connect to it.
fn warn_of_exposure(address: SocketAddr, then: &str) {
    if !address.ip().is_loopback() {
        say(format_args!(
            "           EXPOSED to this machine's containers and to every machine that can reach {}:\n           \
             whoever connects {then}",
            address.ip()
        ));
    }
}

/// Binds a port, or says which flag chooses another.
async fn listen(flag: &str, address: SocketAddr) -> Result<TcpListener, AnyError> {
    TcpListener::bind(address).await.map_err(|error| {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            format!("{flag} {address} is taken: {error}; choose another with {flag}").into()
        } else {
            format!("{flag} {address} cannot be used: {error}; choose another with {flag}").into()
        }
    })
}

/// The API with its reference.
fn http_api(processes: &Processes, key: &DeveloperKey) -> Router {
    gateway::service(processes.clone(), key.clone())
        .layer(axum::middleware::from_fn(request_lines::tell))
        .merge(api_reference::routes(key.clone()))
}

fn spawn_http(name: &'static str, listener: TcpListener, app: Router) {
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, service).await {
            warn(format_args!("[{name}] stopped: {error}"));
        }
    });
}

/// The inbox's certificate authority as a file, with what the environment trusts already.
fn trust_roots(ca: &TestCa) -> Result<NamedTempFile, AnyError> {
    let mut file = tempfile::Builder::new()
        .prefix("clinic-comms-")
        .suffix(".pem")
        .tempfile()?;
    if let Some(own) = std::env::var_os("EXTRA_CA_FILE").filter(|path| !path.is_empty()) {
        let own = std::fs::read(&own)
            .map_err(|error| format!("EXTRA_CA_FILE {}: {error}", own.display()))?;
        file.write_all(&own)?;
        file.write_all(b"\n")?;
    }
    file.write_all(ca.pem().as_bytes())?;
    file.flush()?;
    Ok(file)
}

/// What a function may connect to when the environment does not say otherwise: this machine, which the inbox may have
/// been given another address of.
fn egress_allow(smtp: IpAddr) -> String {
    let loopback = "127.0.0.0/8,::1/128";
    if smtp.is_loopback() {
        loopback.to_owned()
    } else {
        format!("{loopback},{smtp}/32")
    }
}

/// The environment of every function's process, without the variables of the Runtime API.
fn environment(aws: &LocalAws, roots: &NamedTempFile, smtp: IpAddr) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = aws
        .env()
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    environment.push(("EXTRA_CA_FILE".into(), roots.path().into()));
    // Set to the empty string is set: that is how to see what is refused in production.
    for (name, default) in [
        ("EGRESS_ALLOW", egress_allow(smtp)),
        ("LOG_LEVEL", "info".to_owned()),
        (sealed::ACCEPT, "false".to_owned()),
    ] {
        let value = std::env::var_os(name).unwrap_or_else(|| default.into());
        environment.push((name.into(), value));
    }
    environment
}

/// Deletes expired deliveries now and then, as DynamoDB does.
async fn sweep(aws: LocalAws) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        interval.tick().await;
        if let Err(error) = aws.sweep_expired().await {
            warn(format_args!("[aws] expired items stay: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_may_connect_to_the_inbox_wherever_it_is() {
        let loopback = egress_allow([127, 0, 0, 1].into());
        assert_eq!(loopback, "127.0.0.0/8,::1/128");
        let bridge = egress_allow([172, 17, 0, 1].into());
        assert_eq!(bridge, "127.0.0.0/8,::1/128,172.17.0.1/32");
    }
}
