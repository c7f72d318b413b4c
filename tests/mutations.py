"""Small faults, planted one at a time in a copy of the repository: the default tests have to notice every one.

    pytest tests/mutations.py -m slow -n 2 --dist load

A fault is data: a file, a text that occurs in it once, what takes its place, and the tests of which one must fail. The name of
this file keeps it out of a plain `pytest`; `test_mutations.py` checks the list itself there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("jaxpost", "experiments", "configs", "tests")
SECONDS = 300  # that the tests of one fault may take


class Fault(NamedTuple):
    """One planted fault; `tests` are files or node ids of default tests, separated by spaces."""

    kind: str
    file: str
    old: str
    new: str
    tests: str


OBJECTIVES = [
    Fault("dropped option", "jaxpost/objectives/aggregation.py",
          'counted = empty == "counted" or (empty == "default" and mode == "constant")',
          'counted = mode == "constant" and empty != "left_out"',
          "tests/objectives/test_properties.py::test_sums_and_counts_are_those_of_a_loop_over_rows"),
    Fault("wrong normaliser", "jaxpost/objectives/aggregation.py", "(x.sum(axis=1) / jnp.maximum(tokens_N, 1.0)).sum(), full",
          "(x.sum(axis=1) / x.shape[1]).sum(), full",
          "tests/objectives/test_properties.py::test_sums_and_counts_are_those_of_a_loop_over_rows"),
    Fault("dropped mask", "jaxpost/objectives/aggregation.py", "x = jnp.where(mask_NxT > 0, x_NxT, 0.0) * mask",
          "x = x_NxT * mask", "tests/objectives/test_properties.py::test_sums_and_counts_are_those_of_a_loop_over_rows"),
    Fault("dropped mask", "jaxpost/objectives/aggregation.py", "full = here - absent_N.astype(x.dtype).sum()",
          "full = jnp.asarray(here, x.dtype)",
          "tests/objectives/test_hybrid.py::test_demonstrations_are_no_empty_sampled_rows"),
    Fault("dropped option", "jaxpost/objectives/base.py", "self.aggregation_empty, batch.absent_N)",
          '"default", batch.absent_N)', "tests/objectives/test_selection.py::test_rows_that_were_not_chosen_are_no_empty_rows"),
    Fault("ddof", "jaxpost/objectives/advantages.py", "jnp.sqrt(square / jnp.maximum(n - ddof, 1))",
          "jnp.sqrt(square / jnp.maximum(n - 1, 1))", "tests/objectives/test_golden.py::test_golden_group_advantages"),
    Fault("off by one", "jaxpost/objectives/advantages.py", "n_Bx1 / jnp.maximum(n_Bx1 - 1, 1)",
          "n_Bx1 / jnp.maximum(n_Bx1, 1)", "tests/objectives/test_golden.py::test_leave_one_out_is_the_mean_of_the_others"),
    Fault("> for >=", "jaxpost/objectives/advantages.py", "keep = (reward_BxG >= threshold)", "keep = (reward_BxG > threshold)",
          "tests/objectives/test_golden.py::test_raft_weights_equal_cycling_the_accepted_rows"),
    Fault("wrong normaliser", "jaxpost/objectives/advantages.py", "jnp.sqrt(std * std + 1e-8)", "jnp.sqrt(std + 1e-8)",
          "tests/objectives/test_policy_gradient.py::test_whitening_units"),
    Fault("forgotten padding", "jaxpost/objectives/advantages.py", "jnp.where(live, value_N, next_N)", "value_N",
          "tests/objectives/test_policy_gradient.py::test_generalised_advantages_and_returns_bridge_what_is_masked"),
    Fault("off by one", "jaxpost/objectives/advantages.py", "total_N = reward_N + gamma * carry_N",
          "total_N = gamma * (reward_N + carry_N)",
          "tests/objectives/test_policy_gradient.py::test_generalised_advantages_and_returns_bridge_what_is_masked"),
    Fault("side", "jaxpost/objectives/advantages.py", "jnp.cumsum((mask_NxT > 0)[:, ::-1], axis=1)[:, ::-1]",
          "jnp.cumsum(mask_NxT > 0, axis=1)",
          "tests/objectives/test_policy_gradient.py::test_the_score_sits_on_the_last_counted_token"),
    Fault("wrong clip side", "jaxpost/objectives/clipping.py", "-jnp.minimum(free, bounded)", "-jnp.maximum(free, bounded)",
          "tests/objectives/test_golden.py::test_golden_policy_losses"),
    Fault("sign", "jaxpost/objectives/clipping.py", "(advantage_NxT < 0) & (x_NxT > -dual * advantage_NxT)",
          "(advantage_NxT > 0) & (x_NxT > -dual * advantage_NxT)",
          "tests/objectives/test_policy_gradient.py::test_the_clip_table"),
    Fault("missing stop_gradient", "jaxpost/objectives/clipping.py", "return -jax.lax.stop_gradient(bounded) * advantage_NxT",
          "return -bounded * advantage_NxT", "tests/objectives/test_policy_gradient.py::test_the_clip_table"),
    Fault("swapped arguments", "jaxpost/objectives/kl.py", "jnp.expm1(-d) + d",
          "jnp.expm1(d) - d", "tests/objectives/test_golden.py::test_golden_kl"),
    Fault("swapped arguments", "jaxpost/objectives/kl.py", "jnp.sum(jnp.exp(logp) * (logp - logq), axis=-1)",
          "jnp.sum(jnp.exp(logq) * (logq - logp), axis=-1)",
          "tests/objectives/test_golden.py::test_full_vocabulary_kl_and_entropy_against_numpy"),
    Fault("missing stop_gradient", "jaxpost/objectives/kl.py", "jax.lax.stop_gradient(value_NxT - k2_NxT) + k2_NxT",
          "value_NxT", "tests/objectives/test_policy_gradient.py::test_kl_terms_with_other_gradients_by_enumeration"),
    Fault("forgotten padding", "jaxpost/objectives/ratios.py", "jnp.maximum((mask_NxT > 0).sum(axis=1, keepdims=True), 1)",
          "mask_NxT.shape[1]", "tests/objectives/test_properties.py::test_padding_changes_nothing_whatever_it_holds"),
    Fault("swapped arguments", "jaxpost/objectives/ratios.py", "jnp.where(mask_NxT > 0, proximal_NxT - behaviour_NxT, 0.0)",
          "jnp.where(mask_NxT > 0, behaviour_NxT - proximal_NxT, 0.0)",
          "tests/objectives/test_policy_gradient.py::test_the_sampler_weight_is_truncated_and_constant"),
    Fault("wrong clip side", "jaxpost/objectives/actor_critic.py", "0.5 * jnp.maximum(free, held)",
          "0.5 * jnp.minimum(free, held)",
          "tests/objectives/test_actor_critic.py::test_advantages_returns_and_loss_against_numpy"),
    Fault("sign", "jaxpost/objectives/preference.py", "self.contrastive_bias * rejected_K - self.margin",
          "self.contrastive_bias * rejected_K + self.margin",
          "tests/objectives/test_preference.py::test_loss_and_gradient_of_every_row"),
    Fault("wrong normaliser", "jaxpost/objectives/links.py",
          "return ((1 - noise) * right_K - noise * wrong_K) / (1 - 2 * noise)",
          "return (1 - noise) * right_K - noise * wrong_K",
          "tests/objectives/test_preference.py::test_loss_and_gradient_of_every_row"),
    Fault("off by one", "jaxpost/objectives/scores.py", "jnp.where(index_NxT < shared_N[:, None]",
          "jnp.where(index_NxT <= shared_N[:, None]",
          "tests/objectives/test_preference.py::test_loss_and_gradient_of_every_row"),
    Fault("wrong clip side", "jaxpost/objectives/unpaired.py", "jnp.maximum(mean, 0.0)", "jnp.minimum(mean, 0.0)",
          "tests/objectives/test_unpaired.py::test_loss_and_gradient"),
    Fault("tie handling", "jaxpost/objectives/selection.py", "jnp.argsort(-score, stable=True)",
          "jnp.argsort(score, stable=True)[::-1]",
          "tests/objectives/test_selection.py::test_top_tokens_are_a_share_of_the_counted_ones"),
    Fault("wrong seed stream", "jaxpost/objectives/one_token.py", "jax.random.fold_in(row_key, t)", "row_key",
          "tests/objectives/test_one_token.py::test_positions_and_rows_of_one_distribution_draw_apart"),
    Fault("wrong side", "jaxpost/objectives/trust_region.py",
          "away = jnp.where(batch.advantage_NxT > 0, logp_NxT > old_NxT, logp_NxT < old_NxT)",
          "away = jnp.where(batch.advantage_NxT > 0, logp_NxT < old_NxT, logp_NxT > old_NxT)",
          "tests/objectives/test_trust_region.py::test_dppo_holds_what_has_moved_too_far_and_would_go_on"),
    Fault("wrong normaliser", "jaxpost/objectives/group_credit.py",
          "W = jnp.where(there, jnp.cumsum(packed(energy_NxT), axis=2), 0.0)",
          "W = jnp.where(there, packed(energy_NxT), 0.0)",
          "tests/objectives/test_group_credit.py::test_token_baselines_against_loops"),
    Fault("off by one", "jaxpost/objectives/group_credit.py", "share(w - 1, n - 1, k - 1)", "share(w, n - 1, k - 1)",
          "tests/objectives/test_group_credit.py::test_pass_at_k_is_the_mean_over_all_subsets"),
    Fault("swapped arguments", "jaxpost/objectives/kl.py", "logq + math.log(weight), logp + math.log1p(-weight)",
          "logp + math.log(weight), logq + math.log1p(-weight)",
          "tests/objectives/test_distillation.py::test_against_numpy"),
    Fault("missing order", "jaxpost/objectives/preference.py", "jnp.sort(jnp.where(full_K > 0, x_K, jnp.inf))",
          "jnp.where(full_K > 0, x_K, jnp.inf)", "tests/objectives/test_preference.py::test_loss_and_gradient_of_every_row"),
    Fault("dropped mask", "jaxpost/objectives/hybrid.py", "count = jnp.where(batch.total_N[0] > 0, count, own)",
          "count = count + 0 * own",
          "tests/objectives/test_hybrid.py::test_an_update_that_sampled_nothing_keeps_its_demonstrations"),
    Fault("wrong centre", "jaxpost/objectives/replayed.py", "jnp.clip(r_NxT, c_NxT - self.clip_low, c_NxT + self.clip_high)",
          "jnp.clip(r_NxT, 1 - self.clip_low, 1 + self.clip_high)",
          "tests/objectives/test_replayed.py::test_remix_clips_around_the_policy_before_the_update"),
    Fault("forgotten rule", "jaxpost/models/sampler.py", "token = jnp.where(given == DRAW, token, given)",
          "token = token + 0 * given",
          "tests/training/test_forcing.py::test_the_sampler_keeps_what_is_forced_and_draws_the_rest"),
    Fault("stale entries", "jaxpost/training/replay.py", "(step + 1 - both[\"step_C\"] > self.max_age)", "(step < 0)",
          "tests/training/test_replay.py::test_what_is_kept_is_what_a_list_would_keep"),
    Fault("off by one", "jaxpost/objectives/flow.py", "self.lam ** jnp.maximum(length - 1, 0)", "self.lam ** length",
          "tests/objectives/test_flow.py::test_away_from_the_optimum_against_loops"),
    Fault("off by one", "jaxpost/objectives/rewards.py", "jnp.clip((limit - cache - length_N) / cache",
          "jnp.clip((limit - length_N) / cache", "tests/objectives/test_rewards.py::test_length_terms_at_known_points"),
]

NUMBERS = [
    Fault("wrong interval", "jaxpost/stats.py", "scipy.stats.t.ppf(0.5 + level / 2, df)",
          "scipy.stats.norm.ppf(0.5 + level / 2)", "tests/test_stats.py::test_t_interval_is_scipys"),
    Fault("wrong interval", "jaxpost/stats.py", "scipy.stats.t.ppf(0.5 + level / 2, df)", "scipy.stats.t.ppf(level, df)",
          "tests/test_stats.py::test_t_interval_is_scipys"),
    Fault("side", "jaxpost/stats.py", "return scipy.stats.t.sf(t, n - 1)", "return 2 * scipy.stats.t.sf(np.abs(t), n - 1)",
          "tests/test_stats.py::test_t_pvalue_is_scipys"),
    Fault("ddof", "jaxpost/stats.py", "_with_error(mean, x_S.std(-1, ddof=1) / np.sqrt(n)",
          "_with_error(mean, x_S.std(-1) / np.sqrt(n)", "tests/test_stats.py::test_t_interval_is_scipys"),
    Fault("missing Holm", "jaxpost/stats.py", "p[order] * (len(p) - np.arange(len(p)))", "p[order] * len(p)",
          "tests/test_stats.py::test_holm_is_the_closed_testing_procedure"),
    Fault("wrong normaliser", "jaxpost/stats.py", "np.sqrt((n - 1) / n * ((without", "np.sqrt(1 / n * ((without",
          "tests/test_stats.py::test_jackknife_of_a_linear_pair_statistic_is_the_t_interval"),
    Fault("sign", "jaxpost/stats.py", 'return "contradicted" if hi < 0', 'return "contradicted" if hi < sign * threshold',
          "tests/test_stats.py::test_verdicts_and_their_mirror_image"),
    Fault("tie handling", "jaxpost/stats.py", "hit = np.isnan(out) & (log_grid >= low)", "hit = (log_grid >= low)",
          "tests/test_stats.py::test_log_interp_takes_the_first_crossing_of_a_path_that_turns_back"),
    Fault("swapped arguments", "jaxpost/stats.py", "t_interval(a_S - b_S, level)", "t_interval(b_S - a_S, level)",
          "tests/test_stats.py::test_paired_difference_uses_the_pairing"),
    Fault("wrong axis", "jaxpost/stats.py", "t_interval(x_BxS.mean(-1), level)", "t_interval(x_BxS.mean(0), level)",
          "tests/test_stats.py::test_hierarchical_interval_generalises_over_bases"),
    Fault("side", "jaxpost/linalg.py", "singular_values(c_KxK)[::-1]", "singular_values(c_KxK)",
          "tests/test_linalg.py::test_planted_angles"),
    Fault("> for >=", "jaxpost/linalg.py", "1 + jnp.sum(energy_Q < q * energy_Q[-1])",
          "1 + jnp.sum(energy_Q <= q * energy_Q[-1])",
          "tests/test_linalg.py::test_a_rank_that_holds_exactly_the_share_of_the_energy_is_enough"),
    Fault("swapped arguments", "jaxpost/linalg.py", "s0_Q[k - 1] - s1_Q[k]", "s0_Q[k - 1] - s0_Q[k]",
          "tests/test_linalg.py::test_the_gap_of_w0_alone_is_not_a_bound_and_ours_is"),
    Fault("off by one", "jaxpost/linalg.py", "return (k - 1) / jnp.sum(jnp.log(", "return k / jnp.sum(jnp.log(",
          "tests/test_linalg.py::test_ranks_against_float64"),
]

PROBES = [
    Fault("wrong interval", "jaxpost/probes/rows/pooling.py", "np.sqrt(1 + 1 / count)", "np.sqrt(1 / count)",
          "tests/probes/weights/test_blind.py::test_a_prediction_interval_holds_the_next_draw_and_a_union_every_law"),
    Fault("wrong interval", "jaxpost/probes/rows/pooling.py", "half = 1.959964 * deviation", "half = 1.644854 * deviation",
          "tests/probes/rows/test_pooling.py::test_a_closed_form_null_spans_95_percent_of_a_normal_law_cut_to_shares"),
    Fault("side", "jaxpost/probes/trends/correlations.py", "np.sum(np.abs(null_M) >= abs(value) * (1 - 1e-12))",
          "np.sum(null_M >= abs(value) * (1 - 1e-12))",
          "tests/probes/trends/test_correlations.py::test_p_is_the_share_of_all_block_permutations"),
    Fault("wrong null", "jaxpost/probes/trends/correlations.py", "_residual(left_2xn[1][orders_Mxn], control)",
          "left_2xn[1][orders_Mxn]",
          "tests/probes/trends/test_correlations.py::test_permutation_of_residuals_takes_time_out_again"),
    Fault("ddof", "jaxpost/probes/gradients/statistics.py", "(s2_mean - s1_mean / m) / (m - 1) * chunk",
          "(s2_mean - s1_mean / m) / m * chunk",
          "tests/probes/gradients/test_statistics.py::test_point_values_are_those_of_pairs_and_covariances"),
    Fault("wrong normaliser", "jaxpost/probes/gradients/statistics.py", "[..., None] - 2 * np.asarray(dot_m, np.float64)",
          "[..., None] - np.asarray(dot_m, np.float64)",
          "tests/probes/gradients/test_statistics.py::test_jackknife_is_that_of_deleting_examples_one_by_one"),
    Fault("wrong null", "jaxpost/probes/gradients/coherence.py", ".set(jnp.roll(order, 1))", ".set(order)",
          "tests/probes/gradients/test_coherence.py::test_permuted_null_is_the_statistic_of_permuted_examples"),
    Fault("wrong interval", "jaxpost/probes/gradients/conflict.py", "sum((x_m.shape[-1] - 1) * x_m.var(-1)", "sum(x_m.var(-1)",
          "tests/probes/gradients/test_conflict.py::test_cosine_interval_and_split_halves_are_those_of_numpy"),
    Fault("side", "jaxpost/probes/weights/visibility.py", "count(negative, outward) + count(1 - negative, inward)",
          "count(negative, inward) + count(1 - negative, outward)",
          "tests/probes/weights/test_visibility.py::test_visibility_is_exact_at_ties_binades_subnormals_and_zero"),
    Fault("wrong null", "jaxpost/probes/weights/visibility.py", "_total(counts_C, pa_C + pb_C - pa_C * pb_C)",
          "_total(counts_C, pa_C + pb_C)",
          "tests/probes/weights/test_visibility.py::test_expected_jaccard_is_that_of_two_blind_runs_and_not_independence"),
    Fault("off by one", "jaxpost/probes/weights/nulls.py", "(log_at >= log_P[0] - 1e-6) & (log_at <= log_P[-1] + 1e-6)",
          "log_at >= log_P[0] - 1e-6",
          "tests/probes/weights/test_nulls.py::test_interpolation_is_exact_on_power_laws_and_absent_outside"),
    Fault("wrong null", "jaxpost/probes/weights/nulls.py", "minval=-0.5, maxval=0.5", "minval=-1.0, maxval=1.0",
          "tests/probes/weights/test_nulls.py::test_rounding_floor_is_the_rounding_of_an_off_grid_matrix"),
    Fault("tie handling", "jaxpost/probes/updates/half_ulp.py", "(size == h) & ((codes & 1) == 1)",
          "(size == h) & ((codes & 1) == 0)",
          "tests/probes/updates/test_half_ulp.py::test_at_and_beside_half_an_ulp_the_rule_is_that_of_the_cast"),
    Fault("swapped arguments", "jaxpost/probes/updates/mask_pairs.py", '(x["size1"], x["expected1"], q)',
          '(x["size2"], x["expected2"], p)', "tests/probes/updates/test_mask_pairs.py::test_rows_pool_as_ratios_of_sums"),
    Fault("side", "jaxpost/probes/updates/tail_fits.py",
          "max(np.max(np.arange(1, n + 1) / n - law), np.max(law - np.arange(n) / n))", "np.max(np.arange(1, n + 1) / n - law)",
          "tests/probes/updates/test_tails.py::test_the_fit_against_a_plain_implementation"),
    Fault("wrong normaliser", "jaxpost/probes/updates/distances.py", "coarse * _l1(visibility.ulp(codes1)) / 4",
          "coarse * _l1(visibility.ulp(codes1)) / 2",
          "tests/probes/updates/test_distances.py::test_the_floor_of_l1_is_the_error_that_one_rounding_makes"),
    Fault("wrong null", "jaxpost/probes/updates/predictability.py", "pls_predict(x_TxM[kept], y_T[kept], x_TxM[i])",
          "pls_predict(x_TxM, y_T, x_TxM[i])",
          "tests/probes/updates/test_predictability.py::test_prediction_is_least_squares_on_the_score_and_exact_for_one_column"),
    Fault("off by one", "jaxpost/probes/routing/load.py", "np.sqrt((experts / k - 1) / tokens)",
          "np.sqrt(experts / k / tokens)",
          "tests/probes/routing/test_load.py::test_nulls_of_equal_load_are_every_choice_of_every_token"),
    Fault("wrong normaliser", "jaxpost/probes/routing/load.py", "(count_E / tokens) @ (last_E / tokens) / k",
          "(count_E / tokens) @ (last_E / tokens)",
          "tests/probes/routing/test_load.py::test_overlap_and_its_null_are_enumerated"),
    Fault(">= for >", "jaxpost/probes/routing/events.py", "left - errors > ACCURACY * left", "left - errors >= ACCURACY * left",
          "tests/probes/routing/test_events.py::test_one_error_needs_six_steps"),
    Fault("off by one", "jaxpost/probes/policy/forgetting_fit.py", "float((1 + at_least) / (1 + len(found)))",
          "float(at_least / len(found))",
          "tests/probes/policy/test_forgetting_fit.py::test_the_null_is_the_enumeration_of_permuted_arms"),
    Fault("dropped mask", "jaxpost/probes/curvature/products.py",
          "(p * tangent).sum(axis=-1, keepdims=True)) * mask[..., None]",
          "(p * tangent).sum(axis=-1, keepdims=True))",
          "tests/probes/curvature/test_products.py::test_products_of_a_network_are_finite_differences_and_sums_over_positions"),
    Fault("wrong normaliser", "jaxpost/probes/curvature/products.py", "count = len(jax.tree.leaves(rows)[0])",
          "count = microbatch",
          "tests/probes/curvature/test_products.py::test_microbatches_jit_and_sharded_trees_change_nothing"),
    Fault("residual without its value", "jaxpost/probes/curvature/krylov.py", "lambda h, y: h - y * values.reshape",
          "lambda h, y: h - 0.999 * y * values.reshape",
          "tests/probes/curvature/test_krylov.py::test_leading_eigenvalues_lie_within_their_residuals"),
    Fault("off by one", "jaxpost/probes/curvature/spectrum.py", "(layers == layer).reshape(shape)",
          "(layers == layer + 1).reshape(shape)",
          "tests/probes/curvature/test_spectrum.py::test_rows_are_the_closed_form_within_their_errors"),
    Fault("wrong variant", "jaxpost/probes/curvature/spectrum.py", "(jnp.sqrt(x) + self.eps) ** -0.5",
          "(jnp.sqrt(x) + self.eps) ** -1.0",
          "tests/probes/curvature/test_spectrum.py::test_adams_sharpness_is_that_of_the_scaled_matrix"),
    Fault("wrong target", "jaxpost/probes/curvature/gate.py", "jax.random.categorical(key, wide, axis=-1), wide.shape[-1]",
          "predict(params, row).target_T, wide.shape[-1]",
          "tests/probes/curvature/test_gate.py::test_values_are_the_closed_form_within_their_intervals"),
    Fault("dropped term", "jaxpost/probes/curvature/gate.py", "outside = (whole_RxR - gram_TxRxR) / r",
          "outside = (whole_RxR + 0 * gram_TxRxR) / r",
          "tests/probes/curvature/test_gate.py::test_the_conditioned_form_is_the_damped_schur_complement"),
    Fault("sign", "jaxpost/probes/policy/kl_leash.py", "max(-np.log1p(-low), np.log1p(high))",
          "max(np.log1p(low), np.log1p(high))",
          "tests/probes/policy/test_kl_leash.py::test_the_clip_bound_holds_for_distributions_that_meet_the_clip"),
]

TRAINING = [
    Fault("dropped mask", "jaxpost/training/masking.py", "transform.update(self.only(grads), opt_state",
          "transform.update(grads, opt_state",
          "tests/training/test_masking.py::test_the_update_is_that_of_the_kept_entries_alone"),
    Fault("tie handling", "jaxpost/training/suppression.py", "math.ceil(round(percent / 100 * (m - 1), 9) - 0.5)",
          "math.floor(round(percent / 100 * (m - 1), 9) + 0.5)",
          "tests/training/test_suppression.py::test_winsorising_ignores_one_outlier_and_a_tie_of_ranks_goes_outward"),
    Fault("forgotten padding", "jaxpost/training/router_losses.py", "load_LxX = (chosen * counts).sum(",
          "load_LxX = chosen.sum(", "tests/training/test_router_losses.py::test_against_loops_over_real_tokens"),
    Fault("wrong normaliser", "jaxpost/training/step.py", "return total + penalty * jnp.maximum(count, 1.0)",
          "return total + penalty",
          "tests/training/test_router_losses.py::test_the_step_follows_the_sum_of_both_gradients_and_reports_the_objective_alone"),
    Fault("wrong seed stream", "jaxpost/training/rl.py", 'stream(member.seed, "permute", state.step)',
          'stream(member.seed, "permute", 0)',
          "tests/training/test_rollouts.py::test_the_permutation_is_another_one_in_every_group_step_and_seed"),
    Fault("wrong normaliser", "jaxpost/training/adapters.py", "jnp.float32((rank if alpha is None else alpha) / rank)",
          "jnp.float32(1.0 if alpha is None else alpha)",
          "tests/training/test_adapters.py::test_lora_starts_at_the_base_bit_for_bit"),
    Fault("off by one", "jaxpost/training/preferences.py", "jnp.roll(batch.prompt_NxP, -2, axis=0)",
          "jnp.roll(batch.prompt_NxP, -1, axis=0)",
          "tests/training/test_preferences.py::test_labelled_rows_and_their_mismatched_log_ratio_one_at_a_time"),
    Fault("wrong normaliser", "jaxpost/training/evaluate.py", 'sums["forward"] / sums["base_tokens"]',
          'sums["forward"] / sums["tokens"]',
          "tests/training/test_text_suite.py::test_divergences_are_those_of_a_loop_over_the_tokens_of_each_policys_own_samples"),
    Fault("swapped arguments", "jaxpost/training/evaluate.py", "compared(base, params, drawn)", "compared(params, base, drawn)",
          "tests/training/test_text_suite.py::test_divergences_are_those_of_a_loop_over_the_tokens_of_each_policys_own_samples"),
    Fault("wrong seed stream", "jaxpost/training/needs.py", 'stream(member.seed, "rows", state.step)',
          'stream(member.seed, "rows", 0)',
          "tests/training/test_sources.py::test_seeds_are_fresh_a_row_and_a_step_and_the_same_again"),
]

TASKS_AND_MODELS = [
    Fault("off by one", "jaxpost/tasks/base.py", "jnp.cumsum(answer_T == vocab.EOS) - (answer_T == vocab.EOS) > 0",
          "jnp.cumsum(answer_T == vocab.EOS) > 0",
          "tests/tasks/test_modular.py::test_verify_accepts_the_answer_alone_and_guess_is_the_commonest"),
    Fault("off by one", "jaxpost/tasks/base.py", "(jnp.cumsum(ended_NxT, axis=-1) - ended_NxT == 0)",
          "(jnp.cumsum(ended_NxT, axis=-1) == 0)",
          "tests/training/test_whole_table.py::test_without_a_limit_the_end_token_is_trained_on_too"),
    Fault("wrong seed stream", "jaxpost/tasks/countdown.py", 'exists & in_range & (_fold(problem) == knobs["fold"])',
          "exists & in_range", "tests/tasks/test_contract.py::test_splits_share_neither_keys_nor_training_prompts"),
    Fault("side", "jaxpost/tasks/modular.py", '(a < b) & (operator != list(OPERATORS).index("subtract"))', "a < b",
          "tests/tasks/test_modular.py::test_operands_that_commute_share_a_fold_and_others_need_not"),
    Fault("off by one", "jaxpost/tasks/chains.py", "label = base.below(word_7[1], 2) == 1",
          "label = base.below(word_7[1], 3) == 1", "tests/tasks/test_chains.py::test_labels_are_balanced_at_every_distance"),
    Fault("> for >=", "jaxpost/models/transformer.py", "position_T[:, None] >= jnp.arange(S)[None, :]",
          "position_T[:, None] > jnp.arange(S)[None, :]", "tests/models/test_transformer.py::test_logits_against_numpy"),
    Fault("sign", "jaxpost/models/transformer.py", "b * cos + a * sin", "b * cos - a * sin",
          "tests/models/test_transformer.py::test_logits_against_numpy"),
    Fault("dropped term", "jaxpost/models/vocabulary.py", "(excess_N + (largest_N - new_N) * total_N) * scale_N",
          "excess_N * scale_N", "tests/models/test_vocabulary.py::test_values_and_gradients_are_those_of_whole_logits"),
    Fault("forgotten padding", "jaxpost/models/vocabulary.py", "z = jnp.where(real_v[None, None], z, _LOWEST)",
          "z = jnp.where(real_v[None, None], z, 0.0)",
          "tests/models/test_vocabulary.py::test_values_and_gradients_are_those_of_whole_logits"),
    Fault("off by one", "jaxpost/models/grouped.py", "(expert_R >= 0) & (expert_R < X)", "(expert_R > 0) & (expert_R < X)",
          "tests/models/test_moe.py::test_the_layer_against_loops"),
    Fault("off by one", "jaxpost/models/moe.py", "(place_Nxk <= -(-hundredths", "(place_Nxk < -(-hundredths",
          "tests/models/test_moe.py::test_capacity_is_a_queue"),
    Fault("forgotten padding", "jaxpost/models/sampler.py", "jnp.cumsum(prompt_NxP != pad, axis=1) > 0", "prompt_NxP != pad",
          "tests/training/test_split.py::test_padding_is_the_tasks_and_a_real_token_0_is_read"),
    Fault("wrong seed stream", "jaxpost/models/sampler.py", "jax.random.gumbel(jax.random.fold_in(key, t), logp_NxV.shape)",
          "jax.random.gumbel(key, logp_NxV.shape)",
          "tests/models/test_transformer.py::test_tokens_of_neighbouring_positions_are_drawn_independently"),
    Fault("side", "jaxpost/models/symmetries.py", "np.argsort(order) if back else order", "order",
          "tests/models/test_symmetries.py::test_a_round_of_more_than_two_heads_is_undone_and_not_gone_on_with"),
]

RECORDS_AND_FILES = [
    Fault("dropped mask", "jaxpost/records/summary.py", 'USABLE = ("ok", "unresolved")', 'USABLE = ("ok",)',
          "tests/records/test_summary.py::test_status_of_an_estimate"),
    Fault(">= for >", "jaxpost/records/summary.py", "np.bincount(group)[group] > 1", "np.bincount(group)[group] >= 1",
          "tests/records/test_summary.py::test_one_base_has_no_row_over_bases_and_no_seed_no_row"),
    Fault("dropped option", "jaxpost/records/rows.py", 'pc.if_else(pc.equal(table["role"], "null"), table["null_kind"]',
          'pc.if_else(pc.equal(table["role"], "seed"), table["null_kind"]',
          "tests/records/test_rows.py::test_kinds_of_further_nulls_are_different_rows"),
    Fault("> for >=", "jaxpost/records/tabulating/cells.py", "not 1e-3 <= abs(value) < 1e5", "not 1e-3 < abs(value) < 1e5",
          "tests/records/test_report.py::test_numbers_have_three_digits"),
    Fault("swapped arguments", "jaxpost/compare/tally.py", "self.off_grid += int(np.count_nonzero(bits1 & 0xFFFF))",
          "self.off_grid += int(np.count_nonzero(bits0 & 0xFFFF))",
          "tests/compare/test_elementwise.py::test_entries_that_bf16_does_not_hold_are_counted_on_their_own_side"),
    Fault("wrong normaliser", "jaxpost/compare/elementwise.py", "/ (2 * tally.size) / 12", "/ tally.size / 12",
          "tests/compare/test_elementwise.py::test_the_rounding_of_an_entry_is_uniform_over_the_ulps_of_both_sides"),
    Fault("side", "jaxpost/compare/spectra.py", '"captured": (1, [0, 2, 1])', '"captured": (1, [0, 1, 2])',
          "tests/compare/test_spectra.py::test_energies_ranks_and_spectra_are_exact"),
    Fault("swapped arguments", "jaxpost/compare/flags.py", "steps[0] > steps[1]", "steps[0] < steps[1]",
          "tests/compare/test_flags.py::test_swapped_sides_show_in_steps_and_in_dtypes"),
    Fault("off by one", "jaxpost/compare/fp8.py", "np.arange(first, first + count)", "np.arange(count)",
          "tests/compare/test_reading.py::test_fp8_is_multiplied_by_its_scales_and_refused_without"),
    Fault("off by one", "jaxpost/formats/safetensors.py", "offset + rows.start * each", "offset",
          "tests/formats/test_safetensors.py::test_rows_are_a_part_of_the_whole"),
    Fault("dropped option", "jaxpost/formats/digests.py", "{found.dtype.name}\\x1f{tuple(np.shape(x))}\\x1f",
          "{found.dtype.name}\\x1f\\x1f",
          "tests/test_digests.py::test_an_array_digest_tells_shapes_and_dtypes_apart_and_not_layouts"),
    Fault("<= for <", "jaxpost/checkpoint.py", "if before is None or step < before]", "if before is None or step <= before]",
          "tests/test_digests.py::test_a_damaged_step_is_said_moved_aside_and_written_again"),
    Fault("dropped check", "jaxpost/checkpoint.py", "name for name in expected if found[name] != expected[name]",
          "name for name in expected if not found[name]",
          "tests/test_digests.py::test_sound_files_with_other_numbers_are_not_what_was_saved"),
    Fault("wrong axis", "jaxpost/sharding.py", "used |= set(chosen)", "used |= set()",
          "tests/test_sharding.py::test_rules_are_ordered_and_strict"),
    Fault("wrong axis", "jaxpost/sharding.py", 'mesh.shape["data"] * mesh.shape["fsdp"]', 'mesh.shape["data"]',
          "tests/test_sharding.py::test_refusals_name_the_fix"),
]

HARNESS = [
    Fault("missing Holm", "experiments/harness/claims/judging.py", 'result["p_holm"] = float(p)',
          'result["p_holm"] = result["p"]', "tests/experiments/harness/test_claims.py::test_holm_over_primary_claims_only"),
    Fault("dropped check", "experiments/harness/claims/gates.py", "not interval.lo <= 0 <= interval.hi", "True",
          "tests/experiments/harness/test_claims.py::test_an_arm_whose_seeds_disagree_about_learning_supports_nothing"),
    Fault("dropped weight", "jaxpost/training/rl.py", "(self.reward, answer, state.step)",
          "(self.reward, answer, 0)",
          "tests/training/test_rollouts.py::test_a_composed_reward_is_trained_on_and_seen_term_by_term"),
    Fault("off by one", "jaxpost/curricula/uniform.py", "(count,), 0, self.pool)", "(count,), 0, self.pool + 1)",
          "tests/training/test_rollouts.py::test_a_pool_is_drawn_from_and_nothing_else"),
    Fault("dropped mask", "jaxpost/training/rl.py", "weights = weights.times(keep=used_BxS)", "weights = weights.times()",
          "tests/training/test_curricula.py::test_planned_problems_are_the_prompts_and_unused_rollouts_are_as_if_not_drawn"),
    Fault("wrong sign", "jaxpost/curricula/allocation.py", "order = jnp.argsort(-flat, stable=True)",
          "order = jnp.argsort(flat, stable=True)",
          "tests/curricula/test_building_blocks.py::test_knapsack_is_exact_by_dynamic_programming"),
    Fault("off by one", "jaxpost/curricula/statistics.py", "rank_N >= new_K[padded_N] - width",
          "rank_N > new_K[padded_N] - width",
          "tests/curricula/test_building_blocks.py::test_windows_keep_the_last_values_of_each_key"),
    Fault("dropped condition", "jaxpost/training/loop.py", "jnp.where(trains, new, old)", "new",
          "tests/training/test_curricula.py::test_a_probing_step_changes_nothing_but_the_curriculum"),
    Fault("wrong count", "experiments/harness/work.py", "for name in chain(arm.name, stages)", "for name in [arm.name]",
          "tests/experiments/harness/test_stages.py::test_what_an_arm_starts_from_comes_first_and_once"),
    Fault("off by one", "experiments/harness/claims/statistics.py", "curve.value[curve.step > 0]",
          "curve.value[curve.step >= 0]", "tests/experiments/harness/test_claim_kinds.py::test_statistics_in_closed_form"),
    Fault("wrong null", "experiments/harness/claims/statistics.py", 'null = _read(term, table, last, "null_value") if excess',
          'null = _read(term, table, last, "value") if excess',
          "tests/experiments/harness/test_claim_kinds.py::test_an_excess_is_taken_along_the_whole_curve_of_the_null"),
    Fault("swapped arguments", "experiments/harness/claims/terms.py", 'kind == "slope" else (1, -1)',
          'kind == "slope" else (-1, 1)',
          "tests/experiments/harness/test_claims.py::test_verdicts"),
    Fault("wrong unit", "experiments/harness/claims/judging.py", "unit = x_BxS.mean(axis=1) if len(x_BxS) > 1 else x_BxS[0]",
          "unit = x_BxS.ravel()", "tests/experiments/harness/test_claims.py::test_the_test_over_bases_is_that_of_their_means"),
    Fault("side", "experiments/harness/matched.py", "target = min((float(x[-1]) for x in norms.values()",
          "target = max((float(x[-1]) for x in norms.values()",
          "tests/experiments/harness/test_matched.py::test_matched_norm_is_log_linear_and_targets_the_smallest_final_norm"),
    Fault("dropped option", "experiments/harness/matched.py", "stats.log_interp([np.exp(target)], np.exp(new), old)[0]",
          "stats.log_interp([target], new, old)[0]",
          "tests/experiments/harness/test_matched.py::test_between_measured_steps_and_from_a_base_without_success_it_is_linear"),
]

_FUZZED = "tests/tasks/test_worlds.py::test_fuzzed_completions_score_as_in_plain_python"
_STYLES = "tests/tasks/test_traces.py::test_every_style_is_right_and_controls_have_its_length"

WORLDS_AND_ROLES = [
    Fault("off by one", "jaxpost/roles.py", "jnp.cumsum(ended_T, axis=-1) - ended_T > 0", "jnp.cumsum(ended_T, axis=-1) > 0",
          "tests/test_roles.py::test_roles_between_marks"),
    Fault("dropped mask", "jaxpost/training/role_metrics.py", "rows.mask_NxT * (rows.role_NxT == code)", "rows.mask_NxT",
          "tests/training/test_roles.py::test_weights_and_metrics_follow_the_roles"),
    Fault("dropped weight", "jaxpost/objectives/token_weights.py", "found.at[roles.code(name)].set(weight)",
          "found.at[roles.code(name)].set(1.0)", "tests/training/test_roles.py::test_weights_and_metrics_follow_the_roles"),
    Fault("off by one", "jaxpost/tasks/traces.py", "jnp.argmax(ended_T) + 1, tokens_T.shape[0])",
          "jnp.argmax(ended_T), tokens_T.shape[0])", _STYLES),
    Fault("dropped option", "jaxpost/tasks/traces.py", "jnp.any(steps.detour_KxD != vocab.PAD, axis=1, keepdims=True)",
          "jnp.all(steps.detour_KxD != vocab.PAD, axis=1, keepdims=True)", _STYLES),
    Fault("sign", "jaxpost/tasks/joins.py", "possible_C & (count <= 4) & ~reached_C", "possible_C & (count <= 4)",
          "tests/tasks/test_traces.py::test_dead_ends_of_countdown_reach_nothing"),
    Fault("wrong seed stream", "jaxpost/tasks/general_points.py",
          'return found & (base.fold_of(_content(problem)) == knobs["fold"])', "return found",
          "tests/tasks/test_contract.py::test_no_problem_of_training_is_evaluated_in_another_form"),
    Fault("dropped option", "jaxpost/tasks/grid.py", 'name_4 = jnp.where(knobs["fake"] == 1, jnp.arange(4), shown_4)',
          "name_4 = shown_4", _FUZZED),
    Fault("off by one", "jaxpost/tasks/grid.py", "beyond = self.next_Cx4[place, action]", "beyond = place", _FUZZED),
    Fault("sign", "jaxpost/tasks/gameable.py", '"gaming": fooled & ~right}', '"gaming": fooled}',
          "tests/tasks/test_worlds.py::test_gaming_is_not_being_right"),
    Fault("dropped mask", "jaxpost/tasks/satisfiability.py",
          "true_LxN = (made.variable_LxN >= 0) & (value_K[jnp.maximum(made.variable_LxN, 0)] != made.negated_LxN)",
          "true_LxN = value_K[jnp.maximum(made.variable_LxN, 0)] != made.negated_LxN", _FUZZED),
    Fault("side", "jaxpost/tasks/permutations.py", "np.take_along_axis(second, first, axis=1)",
          "np.take_along_axis(first, second, axis=1)",
          "tests/tasks/test_worlds.py::test_permutations_are_a_group_and_conjugation_undoes_itself"),
    Fault("forgotten padding", "jaxpost/tasks/environment.py",
          "(jnp.where(done_N, 0.0, reward_N), ~done_N, seen_NxP, action_NxA)", "(reward_N, ~done_N, seen_NxP, action_NxA)",
          "tests/tasks/test_worlds.py::test_closed_loop_with_optimal_actions_takes_the_shortest_way"),
]

FAULTS = [*OBJECTIVES, *NUMBERS, *PROBES, *TRAINING, *TASKS_AND_MODELS, *WORLDS_AND_ROLES, *RECORDS_AND_FILES, *HARNESS]


def copy(folder: Path) -> Path:
    """A copy of what the tests import and read."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy2(ROOT / "pyproject.toml", folder)
    return folder


def run(folder: Path, tests: list[str], seconds: float = SECONDS) -> subprocess.CompletedProcess:
    """Default tests of a copy, up to the first that fails, in a process of their own with the parent's compilation cache."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=seconds)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=[f"{Path(f.file).stem}-{f.kind.replace(' ', '_')}" for f in FAULTS])
def test_a_fault_is_noticed(fault, tmp_path):
    folder = copy(tmp_path)
    path = folder / fault.file
    path.write_text(path.read_text(encoding="utf-8").replace(fault.old, fault.new), encoding="utf-8")
    done = run(folder, fault.tests.split())
    shutil.rmtree(folder / "jaxpost")
    assert done.returncode == 1, f"exit status {done.returncode}, not 1: {done.stdout[-3000:]}{done.stderr[-1000:]}"


@pytest.mark.slow
def test_the_copy_without_a_fault_passes(tmp_path):
    """Otherwise every fault would be noticed by what the copy lacks."""
    done = run(copy(tmp_path), sorted({test for fault in FAULTS for test in fault.tests.split()}), 10 * SECONDS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
