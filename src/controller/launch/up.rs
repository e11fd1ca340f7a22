//! From a plan, or from what a keeper holds, to a bottle with a way out and an agent that runs: what a launch and an adoption
//! have in common.
//!
//! Must not decide whether a bottle may run. Its way out stands before its agent starts.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AGENT, budget_path, internal};
use crate::api::{Bottle, Launch, State};
use crate::bottle::GATE_V4;
use crate::bottle::wire::{self, Command, Listener, Reply, Request};
use crate::controller::binds::Binds;
use crate::controller::compose::Composed;
use crate::controller::link::{Held, Link};
use crate::controller::live::{Live, Made};
use crate::controller::note::Note;
use crate::controller::routes::{in_force, told};
use crate::controller::{Controller, input, keep};
use crate::egress::{self, Sockets, Spec, ca::Ca};
use crate::error::{Error, Kind, Result};
use crate::ledger::Node;
use crate::ledger::sqlite::SqliteLedger;
use crate::settings::Settings;
use crate::types::CutoffPolicy;

/// What a keeper holds for the controllers to come. Secret: it lies in a sealed memory file and nowhere else.
#[derive(Serialize, Deserialize)]
pub struct Sealed {
    /// What was asked for, credentials included.
    pub launch: Launch,
    /// How the bottle stood when it came up.
    pub view: Bottle,
    /// Certificate of the bottle's authority.
    pub ca_cert: String,
    /// Its key.
    pub ca_key: String,
    /// Environment of the bottle's processes.
    pub env: BTreeMap<String, String>,
    /// What was made in the workspace.
    pub placeholders: Vec<std::path::PathBuf>,
}
/// What a bottle comes up with.
pub(in crate::controller) struct Terms {
    /// Nodes of its budget, nearest first.
    path: Vec<Node>,
    /// What the settings say of it.
    binds: Binds,
    /// The book it is entered in.
    ledger: SqliteLedger,
    /// What was decided about it before.
    pub(in crate::controller) note: Note,
}

impl Terms {
    /// Derives them from what was asked for and today's settings.
    pub(in crate::controller) fn of(launch: &Launch, settings: &Settings, ledger: SqliteLedger) -> Terms {
        Terms { path: budget_path(launch), binds: Binds::of(launch, settings), ledger, note: Note::default() }
    }
}
impl Controller {
    /// Builds the bottle, opens its way out, and only then starts the agent.
    pub(super) async fn bring_up(
        self: &Arc<Self>,
        launch: Launch,
        view: Bottle,
        ca: &Ca,
        composed: Composed,
        terms: Terms,
        settings: &Settings,
    ) -> Result<Arc<Live>> {
        let sealed = Sealed {
            launch,
            view,
            ca_cert: ca.cert_pem().to_owned(),
            ca_key: ca.key_pem().expose_secret().to_owned(),
            env: composed.env.clone(),
            placeholders: composed.placeholders.clone(),
        };
        let bytes = zeroize::Zeroizing::new(serde_json::to_vec(&sealed).map_err(internal)?);
        let memory = wire::sealed("bb-sealed", &bytes).map_err(internal)?;
        let held = Link::launch(&self.keepers, &composed.plan, &memory).await?;
        let live = self.assemble(sealed, held.link.clone(), terms, held.paused.is_some());
        live.change(|b| b.warnings.extend(held.lacking));
        self.insert(Arc::clone(&live));
        let started = async {
            self.open_way_out(&live, ca, held.listeners, settings)?;
            self.start_agent(&live).await
        }
        .await;
        if let Err(error) = started {
            live.close_egress().await;
            live.link.exit().await;
            // The connection must not be dropped before the word is through it.
            if tokio::time::timeout(Duration::from_secs(5), live.link.gone()).await.is_err() {
                live.link.kill_keeper();
            }
            self.bottles.lock().unwrap_or_else(PoisonError::into_inner).remove(&live.slug);
            return Err(error);
        }
        live.change(|b| b.state = State::Running);
        live.save().await;
        let view = live.view();
        let data = json!({
            "provider": view.provider, "agent": view.agent, "workspace": view.workspace,
            "argv0": live.launch.argv.first(), "routes": told(&live.launch.routes),
        });
        live.tell("bottle.running", data, false).await;
        live.start_clock();
        if let Some(lease) = &live.launch.lease {
            self.leases.expect(lease);
        }
        tokio::spawn(Arc::clone(&live).listen(held.said));
        Ok(live)
    }

    /// Puts a bottle together from what its keeper holds.
    pub(in crate::controller) fn assemble(&self, sealed: Sealed, link: Link, terms: Terms, able: bool) -> Arc<Live> {
        let state_dir = self.host.home.state(&sealed.view.slug);
        let made = Made {
            slug: sealed.view.slug.clone(),
            logins: self.logins.of(&sealed.launch.logins),
            launch: sealed.launch,
            path: terms.path,
            ledger: terms.ledger,
            env: sealed.env,
            log: state_dir.join("output.log"),
            cgroups: keep::groups(&state_dir),
            state_dir,
            placeholders: sealed.placeholders,
            link,
            able,
            socket: self.host.home.keeper_socket(&sealed.view.slug),
        };
        Live::new(made, sealed.view, terms.note, terms.binds)
    }

    /// Starts the egress plane of a bottle on the listeners that its keeper handed over.
    pub(in crate::controller) fn open_way_out(
        self: &Arc<Self>,
        live: &Arc<Live>,
        ca: &Ca,
        listeners: Vec<(Listener, std::os::fd::OwnedFd)>,
        settings: &Settings,
    ) -> Result<()> {
        let mut sockets = Sockets::default();
        for (kind, fd) in listeners {
            match kind {
                Listener::Tcp { port } => {
                    live.has_listener(port);
                    sockets.tcp.push(fd.into());
                }
                Listener::DnsUdp => sockets.udp.push(fd.into()),
                Listener::DnsTcp => sockets.dns_tcp.push(fd.into()),
                Listener::Sentinel => sockets.sentinel = Some(fd),
            }
        }
        let mut upstreams = settings.upstreams.clone();
        upstreams.extend(live.launch.upstreams.clone());
        let rules = live.rules();
        let upstream_proxy = settings.upstream_proxy.clone().map(|proxy| {
            // Given for this proxy and no other: the settings may have changed since the launch.
            let value = live.launch.credentials.get(&proxy.credential_key());
            let value = value.map(|value| SecretString::from(value.clone()));
            (proxy, value)
        });
        let spec = Spec {
            slug: live.slug.clone(),
            id: live.launch.id.clone(),
            provider: live.launch.provider.clone(),
            counted_by: live.launch.count_tokens,
            agent: live.view().agent,
            run: live.launch.run.clone(),
            path: live.path.clone(),
            rules: in_force(&live.launch.credentials, &live.logins, &rules),
            upstreams,
            upstream_proxy,
            proxy: live.launch.proxy.then(|| (GATE_V4, egress::proxy::PORT).into()),
            ca: Ca::from_pem(ca.cert_pem(), &ca.key_pem()).map_err(internal)?,
            cut: live.cut_now(),
            parks: live.binds().policy == CutoffPolicy::Pause,
        };
        let handle = egress::start(spec, sockets, live.ledger.clone(), self.enforcement(), Arc::clone(&self.roots))
            .map_err(|e| {
                let advice = live.launch.routes.iter().find_map(crate::api::Route::advice);
                let advice = advice.unwrap_or_else(|| "look at the routes of this launch".to_owned());
                Error::new(Kind::Usage, e.to_string()).hint(advice)
            })?;
        live.open_egress(handle);
        Ok(())
    }

    /// Has the keeper run the agent's command line as exec 0.
    pub(in crate::controller) async fn start_agent(&self, live: &Arc<Live>) -> Result<()> {
        let mut env = live.env.clone();
        if live.launch.terminal.is_some() {
            input::name_terminal(&mut env);
        }
        let command = Command {
            id: AGENT.to_owned(),
            argv: live.launch.argv.clone(),
            env: env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
            cwd: live.view().workspace,
            terminal: live.launch.terminal,
            input: live.launch.input,
            ..Command::default()
        };
        input::check(live, &command)?;
        match live.link.ask(Request::Exec(command)).await? {
            (Reply::Started { exec, .. }, _) => {
                live.note_exec(AGENT, exec);
                Ok(())
            }
            (Reply::Failed { error }, _) => Err(error),
            (other, _) => Err(internal(format!("unexpected answer {other:?}"))),
        }
    }
}

/// Gets the view of held things for a bottle that came up by adoption.
pub(in crate::controller) fn agent_code(held: &Held) -> Option<Option<i32>> {
    held.execs.iter().find(|e| e.id == AGENT).map(|e| e.code)
}
