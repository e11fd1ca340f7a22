//! What binds a bottle by the host's settings. Derived anew on every way in: a start, a resume and an adoption, and each `exec`,
//! `attach` and `thaw` of one that runs.
//!
//! Must not let anybody in whom today's settings cannot judge: where they cannot be read, the way in is refused with their
//! faults. What only tightens (a cut, a pause, an end) asks nobody.

use super::live::Live;
use super::{Controller, ledger_error};
use crate::api::Launch;
use crate::error::Result;
use crate::ledger::{GLOBAL, Ledger};
use crate::settings::Settings;
use crate::types::{CutScope, CutoffPolicy};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binds {
    /// What happens when a budget is spent.
    pub policy: CutoffPolicy,
    /// What a cut takes away.
    pub cut_scope: CutScope,
}

impl Binds {
    /// Derives them from what was asked for and today's settings.
    pub fn of(launch: &Launch, settings: &Settings) -> Binds {
        Binds {
            policy: launch.shutdown.unwrap_or(settings.shutdown),
            cut_scope: launch.cutoff_scope.unwrap_or(settings.cutoff_scope),
        }
    }
}

impl Controller {
    /// Derives anew what binds a bottle that somebody wants into. It holds when this returns.
    ///
    /// # Errors
    /// Every fault of the settings, and the ledger's kinds.
    pub async fn way_in(&self, live: &Live) -> Result<()> {
        let settings = self.settings()?;
        self.set_host_budget(&settings).await?;
        live.bind(Binds::of(&live.launch, &settings));
        Ok(())
    }

    /// Sets the host's budgets as the settings have them now, where they had not been set so.
    ///
    /// # Errors
    /// The ledger's kinds.
    pub(super) async fn set_host_budget(&self, settings: &Settings) -> Result<()> {
        let mut known = self.budget.lock().await;
        if known.as_ref() != Some(&settings.budget) {
            let set = self.real.set_limits(GLOBAL, settings.budget.clone()).await;
            set.map_err(|e| ledger_error(&e, &self.host.home.ledger()))?;
            *known = Some(settings.budget.clone());
        }
        Ok(())
    }
}
