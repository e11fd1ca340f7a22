//! Bad things that are tried by tests of their own, because they need more than a command in a bottle: a controller that dies, a
//! repository, a terminal, an engine. Data only; [`super::table`] checks that each test is there.

/// Where a test was run.
pub const LINUX: &str = "linux";
/// As [`LINUX`], and in containers of engines.
pub const BOTH: &str = "linux, containers";
/// The plane without a bottle.
pub const UNIT: &str = "the plane alone";

/// Tests, and what they show.
pub struct Elsewhere {
    /// What is tried.
    pub name: &'static str,
    /// The kinds of attack that it is one of.
    pub covers: &'static [u8],
    /// What comes of it.
    pub comes: &'static str,
    /// The tests: file and function.
    pub tests: &'static [(&'static str, &'static str)],
    /// Where they run.
    pub on: &'static str,
}

/// All of them.
pub const ALL: &[Elsewhere] = &[
    Elsewhere {
        name: "the controller is killed while an agent works",
        covers: &[22],
        comes: "the way out is closed until there is a controller again, then the same rules hold",
        tests: &[
            ("tests/it/crash.rs", "without_a_controller_a_bottle_has_no_way_out_and_its_keeper_starts_one"),
            ("tests/it/docker.rs", "a_controller_killed_is_survived"),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "slow clients, ten thousand connections, streams without an end, bombs, large bodies",
        covers: &[33],
        comes: "each limit ends closed with its word (docs/limits.md); the controller's memory is bounded, other bottles are served",
        tests: &[
            ("tests/it/hostile.rs", "a_bottle_that_is_hostile_costs_the_controller_little_and_other_bottles_nothing"),
            (
                "tests/it/hostile.rs",
                "what_has_to_be_held_costs_the_controller_little_and_what_a_busy_agent_asks_is_answered",
            ),
            ("tests/it/hostile.rs", "what_nobody_reads_costs_the_controller_little"),
            ("tests/it/hostile.rs", "an_ordinary_users_hostile_bottle_costs_its_controller_as_little"),
            ("tests/it/hostile.rs", "a_hostile_container_costs_the_controller_as_little"),
            ("src/egress/tests/limits.rs", "the_page_about_limits_has_every_limit_with_its_number"),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "frames of a WebSocket whose route was taken back; a WebSocket on a route that names methods",
        covers: &[28, 39],
        comes: "the connection is closed; `upgrade`",
        tests: &[
            ("src/egress/tests/websocket.rs", "neither_a_route_that_names_methods_nor_a_model_api_has_one"),
            ("src/egress/tests/changing.rs", "a_route_that_is_taken_back_closes_what_it_allowed_and_nothing_else"),
        ],
        on: UNIT,
    },
    Elsewhere {
        name: "a route, and with it its credential, that was taken back from a bottle that runs, with a connection and a stream open",
        covers: &[39, 67],
        comes: "`route_missing` at once, open streams end, also when the controller was killed meanwhile; another value is sent, the old one never again",
        tests: &[
            ("tests/it/battery/withdrawn.rs", "a_credential_that_was_taken_back_is_of_no_more_use"),
            ("tests/it/battery/engines.rs", "there_is_no_way_out_of_a_container_of_docker"),
            ("tests/it/battery/engines.rs", "there_is_no_way_out_of_a_container_of_podman"),
            ("tests/it/routes.rs", "routes_of_a_bottle_that_runs_come_and_go_and_outlive_the_controller"),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "a credential of an earlier bottle, by its name, and in the state that is taken up again",
        covers: &[39],
        comes: "what is kept of a session has none; a resume resolves them anew or names what is missing",
        tests: &[
            ("tests/it/battery/withdrawn.rs", "a_credential_that_was_taken_back_is_of_no_more_use"),
            ("tests/it/battery/engines.rs", "there_is_no_way_out_of_a_container_of_docker"),
            ("tests/it/battery/engines.rs", "there_is_no_way_out_of_a_container_of_podman"),
            ("tests/it/session.rs", "what_is_missing_at_a_resume_is_said_and_what_is_kept_stays"),
            ("tests/it/cp.rs", "inspecting_a_bottle_names_its_credentials_and_never_shows_them"),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "a repository whose settings lead the agent's CLI to another API, with the real CLIs",
        covers: &[41, 64, 69],
        comes: "`route_missing`; with that host allowed, the key is still not there",
        tests: &[
            (
                "tests/it/loosening/claude.rs",
                "a_repository_that_names_another_api_and_brings_hooks_and_servers_gains_nothing",
            ),
            ("tests/it/loosening/claude.rs", "a_repository_that_names_another_api_gains_nothing_in_a_container"),
            ("tests/it/loosening/others.rs", "a_repository_that_brings_settings_for_codex_gains_nothing"),
            ("tests/it/loosening/others.rs", "a_repository_that_brings_settings_for_gemini_gains_nothing"),
            (
                "tests/it/loosening/others.rs",
                "a_repository_that_leads_a_clis_api_elsewhere_has_its_task_refused_and_gets_no_key",
            ),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "a peer in other namespaces with the controller's socket in its hand",
        covers: &[65],
        comes: "it is not answered",
        tests: &[("tests/it/battery/host.rs", "a_peer_from_a_bottle_is_turned_away_even_with_the_socket_in_hand")],
        on: LINUX,
    },
    Elsewhere {
        name: "a workspace that is, holds, lies in or links to what must not be shown",
        covers: &[55, 57, 65],
        comes: "`workspace_unsafe` at launch; a directory whose name only begins like one of them is none",
        tests: &[
            ("tests/it/battery/host.rs", "a_workspace_that_would_give_the_host_away_is_refused_at_launch"),
            ("src/bottle/places.rs", "home_its_parents_and_what_bb_keeps_are_refused_and_a_project_is_not"),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "links, setuid bits and special files in what is brought over from a workspace",
        covers: &[55, 58, 59],
        comes: "they lead nowhere: refused by name, or left out",
        tests: &[
            ("tests/it/workspace.rs", "setuid_bits_and_links_of_the_host_lead_nowhere"),
            ("tests/it/workspace.rs", "what_the_host_would_execute_is_refused_by_name_and_the_rest_is_applied"),
        ],
        on: LINUX,
    },
    Elsewhere {
        name: "links in a bottle, where files are copied out of it or into it",
        covers: &[58],
        comes: "they lead nowhere: what they name is not read, and not written",
        tests: &[
            ("tests/it/cp.rs", "files_are_copied_in_and_out_and_links_that_an_agent_plants_lead_nowhere"),
            ("tests/it/backend/mod.rs", "the_embedded_one_keeps_its_contract"),
            ("tests/it/backend/mod.rs", "docker_keeps_its_contract"),
            ("tests/it/backend/mod.rs", "podman_keeps_its_contract"),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "hooks for the host's git, planted directly and by renaming a directory above",
        covers: &[56, 60],
        comes: "the host does not run them",
        tests: &[
            ("tests/it/loosening/hooks.rs", "hooks_planted_for_the_host_are_not_run_by_it"),
            ("tests/it/loosening/hooks.rs", "hooks_planted_by_renaming_an_ancestor_are_not_run_by_the_host"),
            ("tests/it/guards.rs", "a_guarded_file_that_the_host_replaces_ends_the_bottle_before_the_agent_can_use_it"),
        ],
        on: LINUX,
    },
    Elsewhere {
        name: "escape sequences for the person's terminal, and for logs",
        covers: &[51],
        comes: "what writes clipboards or asks for replies is taken out; lists and logs show text",
        tests: &[
            ("tests/it/terminal.rs", "what_would_act_on_the_person_is_taken_out_and_its_harmless_twin_is_not"),
            ("tests/it/terminal.rs", "a_program_that_asks_its_terminal_is_answered_and_the_persons_is_not_asked"),
            ("tests/it/backend/mod.rs", "an_agent_and_commands_have_terminals_on_the_embedded_one"),
            ("tests/it/backend/mod.rs", "an_agent_and_commands_have_terminals_of_the_containers_own"),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "more processes, memory and processor time than there may be",
        covers: &[53],
        comes: "\"Resource temporarily unavailable\"; `oom`; the bottle is slower",
        tests: &[
            ("tests/it/limits.rs", "processes_and_processor_time_are_bound"),
            ("tests/it/limits.rs", "an_agent_that_needs_more_memory_than_it_may_have_ends_as_out_of_memory"),
            ("tests/it/docker.rs", "limits_hold_in_a_container_and_whatever_an_image_says_of_itself_does_not_count"),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "processes that stop themselves, fork twice, or heed no signal, under a pause, a freeze and a kill",
        covers: &[53],
        comes: "they stand still, and end with their bottle",
        tests: &[
            (
                "tests/it/limits.rs",
                "a_paused_bottle_stands_still_until_it_is_thawed_whatever_happens_to_the_controller",
            ),
            ("tests/it/limits.rs", "an_agent_is_asked_to_end_and_killed_where_it_does_not"),
            ("tests/it/leaks.rs", "nothing_is_left_whoever_is_killed_and_when"),
        ],
        on: LINUX,
    },
    Elsewhere {
        name: "a crash of the controller or of a keeper",
        covers: &[54],
        comes: "neither leaves a core file, in which a credential could lie",
        tests: &[("tests/it/battery/host.rs", "who_holds_credentials_leaves_no_core")],
        on: LINUX,
    },
    Elsewhere {
        name: "every way into a bottle: exec, attach, thaw, resume, adoption by another controller",
        covers: &[67],
        comes: "what the host's settings say today holds; faulty ones let nobody in",
        tests: &[
            ("tests/it/ways_in.rs", "settings_are_read_anew_by_exec_thaw_and_attach_and_faulty_ones_let_nobody_in"),
            (
                "tests/it/session.rs",
                "a_frozen_bottle_is_taken_up_with_its_session_and_its_files_under_todays_manifests",
            ),
            ("tests/it/session.rs", "a_cut_that_somebody_made_outlives_the_resume_until_it_is_lifted"),
            ("tests/it/decisions.rs", "a_cut_that_was_acknowledged_outlives_the_controller"),
            ("tests/it/docker_state.rs", "a_container_is_frozen_and_taken_up_with_its_session_its_home_and_its_layer"),
        ],
        on: BOTH,
    },
    Elsewhere {
        name: "an image that says what it would run, with which rights and variables",
        covers: &[67],
        comes: "it does not count",
        tests: &[(
            "tests/it/docker.rs",
            "limits_hold_in_a_container_and_whatever_an_image_says_of_itself_does_not_count",
        )],
        on: "containers",
    },
    Elsewhere {
        name: "settings and manifests that are faulty, empty, or contradict themselves",
        covers: &[68],
        comes: "nothing is launched; every fault is named",
        tests: &[
            ("tests/it/bad_input.rs", "settings_with_a_fault_launch_nothing_and_list_every_fault_with_its_line"),
            ("src/egress/route/tests.rs", "an_empty_list_allows_nothing"),
            ("src/egress/route/compile.rs", "two_routes_of_which_one_could_never_hold_contradict"),
        ],
        on: LINUX,
    },
    Elsewhere {
        name: "bottles, settings, policies, providers, flows, recipes and agents that a repository brings",
        covers: &[69],
        comes: "they count for nothing; an agent that says a budget is refused, even a lower one",
        tests: &[
            ("tests/it/loosening/manifests.rs", "a_bottle_manifest_of_a_repository_counts_for_nothing"),
            ("tests/it/loosening/manifests.rs", "settings_of_a_repository_count_for_nothing"),
            ("tests/it/loosening/manifests.rs", "a_policy_of_a_repository_counts_for_nothing"),
            ("tests/it/loosening/manifests.rs", "a_provider_of_a_repository_counts_for_nothing"),
            ("tests/it/loosening/manifests.rs", "a_recipe_of_a_repository_is_trusted_no_more_than_any_other"),
            (
                "tests/it/loosening/manifests.rs",
                "an_agent_of_a_repository_cannot_raise_its_budget_or_say_what_happens_when_it_is_spent",
            ),
            ("tests/it/battery/engines.rs", "there_is_no_way_out_of_a_container_of_docker"),
            ("tests/it/battery/engines.rs", "there_is_no_way_out_of_a_container_of_podman"),
        ],
        on: BOTH,
    },
];
