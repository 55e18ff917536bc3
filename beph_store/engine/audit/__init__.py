"""A cohort looked over before it is split: the same tissue twice, tiles that show nothing, slides unlike the others."""
