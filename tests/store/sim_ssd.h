/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_STORE_SIM_SSD_H
#define SKEP_TESTS_STORE_SIM_SSD_H

/* The simulation's own: devices and ledger of its ssd tier. */

#include "tests/store/sim.h"

void sim_ssd_create(struct sim *sim);
void sim_ssd_destroy(struct sim *sim);
/* Before realms are made, and after. Return: 0 or negative. */
int sim_ssd_open(struct sim *sim);
int sim_ssd_recover(struct sim *sim);
/* Nothing is under way any more; the keeper does not take its turn. */
void sim_ssd_dry(struct sim *sim);

#endif
