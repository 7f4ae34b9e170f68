# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For a few ranks on one machine; to be sourced. One thread a rank; more ranks than cores and root
# are allowed; nothing is bound, since the machine may have other work; messages stay in memory.
# Open MPI 4 reads the OMPI_MCA settings for placement, Open MPI 5 the PRTE_MCA ones.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OMP_PROC_BIND=false
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export PRTE_MCA_hwloc_default_binding_policy=none
export OMPI_MCA_btl=^tcp OMPI_MCA_btl_base_warn_component_unused=0
if [[ $(id -u) == 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# The launcher of the MPI that the packages build with, should there be another.
SDP_MPIRUN=$(command -v mpirun.openmpi || command -v mpirun || echo mpirun)
export SDP_MPIRUN
