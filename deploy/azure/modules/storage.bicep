// The blob store. The queues and the container of dead letters come with events.bicep.
param environmentName string
param location string
param privateNetworking bool
param platformPrincipalId string
param scoringPrincipalId string

@description('azure.container')
param containerName string = 'active-learning'

resource account 'Microsoft.Storage/storageAccounts@2024-01-01' = {
  name: 'st${environmentName}${take(uniqueString(resourceGroup().id), 8)}'
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false // everybody comes with an identity
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: privateNetworking ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices' // Event Grid delivers into the queue as a trusted service
      defaultAction: privateNetworking ? 'Deny' : 'Allow'
    }
  }
}

resource blobService 'Microsoft.Storage/storageAccounts/blobServices@2024-01-01' = {
  parent: account
  name: 'default'
  properties: {
    deleteRetentionPolicy: {
      enabled: true
      days: 7
    }
  }
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01' = {
  parent: blobService
  name: containerName
  properties: {
    publicAccess: 'None'
  }
}

var blobDataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor
var queueDataContributor = '974c5e8b-45b9-4653-ba55-5f855dd0fb88' // Storage Queue Data Contributor
var grants = [
  { principalId: platformPrincipalId, role: blobDataContributor }
  { principalId: platformPrincipalId, role: queueDataContributor }
  { principalId: scoringPrincipalId, role: blobDataContributor }
]

resource roles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for grant in grants: {
  name: guid(account.id, grant.principalId, grant.role)
  scope: account
  properties: {
    principalId: grant.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', grant.role)
  }
}]

output accountId string = account.id
output accountName string = account.name
output containerName string = container.name
output blobAccountUrl string = 'https://${account.name}.blob.${environment().suffixes.storage}'
